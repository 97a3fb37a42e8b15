"""The help texts, word for word."""

import os
from pathlib import Path

import pytest

from tests.e2e.commands import run
from tools.obd import SUBCOMMANDS

COMMANDS = [
    "overlaybd-apply",
    "turboOCI-apply",
    "overlaybd-create",
    "overlaybd-commit",
    "overlaybd-zfile",
    "overlaybd-merge",
    "overlaybd-resize",
    "overlaybd-snapshotter",
    "overlaybd-snapshotter configure-containerd",
    "overlaybd-tcmu",
    "overlaybd-ublk",
    *(f"overlaybd-ublk {name}" for name in ("add", "list", "del", "recover")),
    "obd",
    *(f"obd {name}" for name in SUBCOMMANDS),
    *(f"obd cache {name}" for name in ("stat", "verify", "repair", "evict", "pin", "unpin")),
    *(f"obd trace {name}" for name in ("show", "record")),
    "obd config check",
    "obd config show",
]
TEXTS = Path(__file__).parent / "help"


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(name: str, option: str) -> None:
    """`UPDATE_HELP=1` writes the texts anew."""
    program, *words = name.split()
    done = run(program, *words, option)
    assert (done.status, done.err) == (0, "")
    text = TEXTS / f"{name.replace(' ', '-')}.txt"
    if os.environ.get("UPDATE_HELP"):
        text.write_text(done.out)
    assert done.out == text.read_text()
    assert max(map(len, done.out.splitlines())) <= 100
