"""`overlaybd-ublk` where the kernel has no ublk driver: it says so, and leaves nothing."""

import json
import os
from pathlib import Path

import pytest

from tests.e2e.commands import run
from tests.e2e.disks import MIB, content, layer

pytestmark = [
    pytest.mark.usefixtures("run_directory"),
    pytest.mark.skipif(os.path.exists("/dev/ublk-control"), reason="this kernel has a ublk driver"),
]


def test_without_the_driver_there_are_no_disks(tmp_path: Path, run_directory: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"lowers": [{"file": str(layer(tmp_path / "layer", content(MIB)))}]}))
    refused = run("overlaybd-ublk", "add", "--config", config)
    assert (refused.status, refused.out) == (255, "")
    assert refused.err.startswith("overlaybd-ublk: unsupported: no ublk: "), refused.err
    assert len(refused.lines) == 1 and ("modprobe ublk_drv" in refused.err or os.geteuid() != 0)
    assert list((run_directory / "attach").iterdir()) == []
    done = run("overlaybd-ublk", "list", "--json")
    assert (done.status, json.loads(done.out)) == (0, [])
    assert run("overlaybd-ublk", "recover", "--all").status == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["add"], 106, "--config is required"),
        (["add", "--config", "/nowhere.json"], 105, "--config"),
        (["add", "--config", "/dev/null", "-n", "-1"], 105, "--number"),
        (["del"], 106, "--number is required"),
        (["del", "-n", "x"], 105, "--number"),
        (["recover"], 255, "either -n or --all is required"),
        (["recover", "-n", "3"], 255, "not-found: /dev/ublkb3: no disk that overlaybd-ublk has added"),
        (["recover", "-n", "3", "--all"], 255, "either -n or --all is required"),
        ([], 106, "a command is required"),
    ],
)
def test_a_wrong_command_line_is_told_in_a_line(words: list[str], status: int, said: str) -> None:
    done = run("overlaybd-ublk", *words)
    assert (done.status, done.out) == (status, "")
    assert said in done.lines[0], done.err
