"""A signal ends a command as it ends others, wherever it comes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# A class that is being made turns what is raised in it into another error, and callbacks lose it.
MODULE = """
import os, sys, weakref
class Sends:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000): pass
class Thing:
    pass
thing = Thing()
gone = weakref.ref(thing, lambda _: Sends().__set_name__(None, ""))
del thing
class Has:
    sends = Sends()
"""
COMMAND = """
import os, sys, time
from tools.main import run
from tools.options import Command
from tools.stopping import stopping
def importing(args):
    with stopping():
        import sender
        print("imported", flush=True)
        time.sleep(60)
    return 0
def hiding(args):
    with stopping():
        try:
            os.kill(os.getpid(), int(sys.argv[1]))
            time.sleep(60)
        except BaseException:
            raise OSError("something else")
    return 0
sys.exit(run(Command("test", "Tests.", run=globals()[sys.argv[2]]), []))
"""


def stopped(tmp_path: Path, number: signal.Signals, how: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "sender.py").write_text(MODULE)
    (tmp_path / "command.py").write_text(COMMAND)
    root = Path(__file__).parents[2]
    words = [sys.executable, str(tmp_path / "command.py"), str(int(number)), how]
    return subprocess.run(words, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_that_comes_in_an_import_waits_for_its_end(tmp_path: Path, number: signal.Signals) -> None:
    done = stopped(tmp_path, number, "importing")
    assert (done.returncode, done.stderr) == (-number, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_that_becomes_another_error_on_its_way(tmp_path: Path, number: signal.Signals) -> None:
    done = stopped(tmp_path, number, "hiding")
    assert (done.returncode, done.stderr) == (-number, "")
