"""Every installed command exists, explains itself, and every file of `tools` is behind one of them."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.style import tree

SCRIPTS: dict[str, str] = tomllib.loads(tree.text(Path("pyproject.toml")))["project"].get("scripts", {})


@pytest.mark.parametrize("command", sorted(SCRIPTS))
def test_command_resolves(command: str) -> None:
    module, _, function = SCRIPTS[command].partition(":")
    assert module.split(".")[0] == "tools", f"{command} is not in tools"
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("command", sorted(SCRIPTS))
def test_command_explains_itself(command: str) -> None:
    program = Path(sys.executable).parent / command
    done = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert command in done.stdout
