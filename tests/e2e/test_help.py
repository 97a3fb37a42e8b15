"""The help texts, word for word."""

import os
from pathlib import Path

import pytest

from tests.e2e.commands import run

COMMANDS = ["overlaybd-create", "overlaybd-commit", "overlaybd-zfile", "overlaybd-merge", "overlaybd-resize"]
TEXTS = Path(__file__).parent / "help"


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(name: str, option: str) -> None:
    """`UPDATE_HELP=1` writes the texts anew."""
    done = run(name, option)
    assert (done.status, done.err) == (0, "")
    text = TEXTS / f"{name}.txt"
    if os.environ.get("UPDATE_HELP"):
        text.write_text(done.out)
    assert done.out == text.read_text()
    assert max(map(len, done.out.splitlines())) <= 100
