"""The lock files pin, with hashes, what pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.style import tree

PROJECT = tomllib.loads(tree.text(Path("pyproject.toml")))
RUNTIME: list[str] = PROJECT["project"]["dependencies"]
DEVELOPMENT: list[str] = RUNTIME + PROJECT["dependency-groups"]["dev"]


@pytest.mark.parametrize(
    ("lock", "wanted"), [("requirements.lock", RUNTIME), ("requirements-dev.lock", DEVELOPMENT)]
)
def test_pinned(lock: str, wanted: list[str]) -> None:
    lines = tree.text(Path(lock))
    for requirement in wanted:
        name = re.split(r"[<>=! \[;]", requirement)[0]
        assert re.search(rf"^{re.escape(name)}==\S+ .*\n +--hash=sha256:", lines, re.MULTILINE), name
