"""Tests that fail, hang, and take their guest down: not for a run of their own, but for `test_harness.py`."""

import subprocess
import time
from pathlib import Path

import pytest

MARK = Path(__file__).with_name("written-in-a-guest")


def test_passes() -> None:
    print("this is said in a guest")


def test_writes() -> None:
    MARK.write_text("only memory")
    assert MARK.read_text() == "only memory"
    subprocess.run(["mount", "-t", "hostfs", "-o", MARK.parent, "host", "/mnt"], check=True)
    with pytest.raises(OSError, match="Read-only"):
        Path("/mnt", MARK.name).write_text("this would be the host's")


def test_fails() -> None:
    print("this went wrong")
    assert 1 + 1 == 3, "arithmetic"


def test_skips() -> None:
    pytest.skip("for a reason")


def test_panics() -> None:
    Path("/proc/sysrq-trigger").write_text("c")


@pytest.mark.timeout(1)
def test_hangs() -> None:
    time.sleep(1000)


def test_runs_after_all_that() -> None:
    assert not MARK.exists(), "another boot"
