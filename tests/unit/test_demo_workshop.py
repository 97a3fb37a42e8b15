"""The demo's workshop: whatever happens, nothing is left of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools.errors import Failure
from tools.obd.demo.workshop import Workshop


@pytest.fixture(autouse=True)
def handlers() -> object:
    """The workshop takes over signal handlers, as a program of its own may."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_everything_is_undone_in_reverse(tmp_path: Path) -> None:
    seen: list[str] = []
    with Workshop(str(tmp_path), quiet=True) as shop:
        shop.undo(seen.append, "first")
        shop.undo(seen.append, "second")
        Path(shop.make("a", "b"), "file").write_text("x")
        assert shop.run("cat", shop.path("a", "b", "file")) == "x"
    assert seen == ["second", "first"]
    assert os.listdir(tmp_path) == []


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(Failure, match=r"status 3:\nbecause"),
        Workshop(str(tmp_path), quiet=True) as shop,
    ):
        shop.run("sh", "-c", "echo because >&2; exit 3")
    with (
        pytest.raises(Failure, match="cannot run absent-program"),
        Workshop(str(tmp_path), quiet=True) as shop,
    ):
        shop.run("absent-program")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_programs_and_removes_everything(tmp_path: Path, number: signal.Signals) -> None:
    program = f"""
import sys
from tools.obd.demo.workshop import Workshop
with Workshop({str(tmp_path)!r}, quiet=True) as shop:
    shop.start("sleep", "1000")
    shop.run("sh", "-c", "cd {tmp_path}; echo $$ > new && mv new pid && exec sleep 1000")
"""
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "pid").exists():
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(30) != 0
    child = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert os.listdir(tmp_path) == ["pid"]
