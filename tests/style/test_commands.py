"""Every installed command exists, explains itself, and every file of `tools` is behind one of them."""

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.style import tree
from tools.obd import SUBCOMMANDS

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


def test_the_list_of_commands_is_complete_and_true() -> None:
    rows = re.findall(r"^\| (.*?) \|", tree.text(Path("docs/commands.md")), re.MULTILINE)
    listed = re.findall(r"`obd ([\w-]+)`", "\n".join(rows))
    assert sorted(listed) == sorted(SUBCOMMANDS)
    listed = re.findall(r"^\[((?:overlaybd|turboOCI)-\w+)\]", "\n".join(rows), re.MULTILINE)
    assert sorted([*listed, "obd"]) == sorted(SCRIPTS)
