"""Runs in processes of their own, forked from one that has imported everything, and what they say."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final

from tests.sweep.model import Event

# A run hangs if it sleeps so long, or takes so long in all. They take less than a second; where many programs
# want the processors one waits for them far longer.
_SLEEP_S: Final = 60
_HANG_S: Final = 1200.0
_AT_START: Final = frozenset(sys.modules)

Say = Callable[[Event], None]


def child(work: Callable[[Say], None]) -> tuple[list[Event], int]:
    """Does `work` in a process of its own; all that it said, and how it ended: 0, a status, minus a signal.

    Its exceptions and hanging are said as `["wrong", what]`.
    """
    theirs, ours = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(theirs)
        _work(work, ours)
    os.close(ours)
    return _wait(pid, theirs)


def learn_modules(said: list[Event]) -> None:
    """Imports what a child had to import, so that the next ones find it there."""
    for event in said:
        for name in event[1:] if event[0] == "modules" else ():
            # Some exist only where another one has made them.
            with contextlib.suppress(ImportError):
                importlib.import_module(str(name))


def wrongs(said: list[Event]) -> list[str]:
    """What must not be, of all that was said."""
    return [str(event[1]) for event in said if event[0] == "wrong"]


def _work(work: Callable[[Say], None], out: int) -> None:
    def say(event: Event) -> None:
        os.write(out, json.dumps(event).encode() + b"\n")

    status = 1
    try:
        work(say)
        say(["modules", *(name for name in sys.modules if name not in _AT_START)])
        status = 0
    except BaseException:
        say(["wrong", " ".join(traceback.format_exc().split())[-600:]])
    finally:
        os._exit(status)


def _wait(pid: int, pipe: int) -> tuple[list[Event], int]:
    data, end, slept = b"", time.monotonic() + _HANG_S, 0
    while True:
        if not select.select([pipe], [], [], 1.0)[0]:
            slept += _sleeps(pid)
            if slept < _SLEEP_S and time.monotonic() < end:
                continue
            os.kill(pid, signal.SIGKILL)
            data += b'["wrong", "hangs"]\n'
            break
        piece = os.read(pipe, 65536)
        if not piece:
            break
        data += piece
    os.close(pipe)
    _, status = os.waitpid(pid, 0)
    return [json.loads(line) for line in data.splitlines()], os.waitstatus_to_exitcode(status)


def _sleeps(pid: int) -> bool:
    """Whether no thread of a process runs, wants to, or waits for a disk."""
    states = []
    for name in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{name}/stat") as file:
            states.append(file.read().rpartition(")")[2].split()[0])
    return not {"R", "D"} & set(states)
