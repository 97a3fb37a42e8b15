"""One daemon gives its place to the next: a socket at which the next one asks, and what both do then.

The next one connects. The daemon leaves its devices, gives up the instance lock and ends, and with it the
connection; or it says why not in one line, and goes on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from select import select
from typing import Final

import tcmu
from obd.daemon import limits
from obd.daemon.lock import InstanceLock
from obd.daemon.notify import Notifier
from obd.errors import ObdError
from obd.state import run_directory

MAX_LINE_BYTES: Final = 4096
TAKEOVER: Final = "--takeover"
# How often the next daemon looks whether the lock is free.
_LOOK_S: Final = 0.005
# <linux/socket.h>: process, user and group of the other end.
_CREDENTIALS: Final = struct.Struct("=iII")


def _path() -> str:
    return os.path.join(run_directory(), "tcmu.handover")


class Doorbell:
    """Where the next daemon asks. Only who holds the instance lock may have it."""

    def __init__(self) -> None:
        """Listens. Raises `OSError` if there is no place for the socket."""
        self._socket: Final = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_path())
        self._socket.bind(_path())
        os.chmod(_path(), 0o600)
        self._socket.listen(1)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._socket.fileno()

    def answer(self) -> socket.socket | None:
        """The connection of who asks, None if nobody does."""
        try:
            asker, _ = self._socket.accept()
        except (BlockingIOError, ConnectionError):  # the other one has hung up again
            return None
        _, user, _ = _CREDENTIALS.unpack(
            asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if user in (0, os.geteuid()):
            asker.setblocking(False)
            return asker
        asker.close()
        return None

    def close(self) -> None:
        """Nobody is heard any more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_path())
        self._socket.close()


def refuse(asker: socket.socket, why: str) -> None:
    """Tells the next daemon that it cannot be."""
    with contextlib.closing(asker), contextlib.suppress(OSError):
        asker.send(why.encode()[:MAX_LINE_BYTES])


def has_gone(asker: socket.socket) -> bool:
    """Whether the next daemon does not wait any more."""
    try:
        return not asker.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def start_successor() -> None:
    """Starts the command of this process again, as it is installed now, to take this one's place.

    Raises `OSError` if it cannot be started. What goes wrong later it tells itself.
    """
    command = [*(word for word in sys.orig_argv if word != TAKEOVER), TAKEOVER]
    if "SYSTEMD_EXEC_PID" in os.environ:  # what is said of this process there, shall be said of it
        command = ["/bin/sh", "-c", 'SYSTEMD_EXEC_PID=$$ WATCHDOG_PID=$$ exec "$@"', "sh", *command]
    subprocess.Popen(command, stdin=subprocess.DEVNULL)


@contextmanager
def succession(lock: InstanceLock, notifier: Notifier) -> Iterator[None]:
    """Takes the place of the daemon that holds the lock, in the body; returns when that process has ended.

    Whoever creates a device meanwhile is told to try again. Raises `OSError` if the place is not given.
    """
    before = lock.holder()
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as asker:
        tcmu.hold()
        try:
            notifier.send(f"MAINPID={os.getpid()}")
            try:
                with contextlib.suppress(FileNotFoundError, ConnectionError):
                    asker.connect(_path())
                _wait(asker, lock)
            except BaseException:
                notifier.send(f"MAINPID={before}")
                raise
            yield
        finally:
            tcmu.unhold()
        # It has its ports until then.
        asker.settimeout(limits.END_S)
        with contextlib.suppress(OSError):
            asker.recv(1)


def _wait(asker: socket.socket, lock: InstanceLock) -> None:
    """Returns once the lock is ours. `ObdError` if the other daemon refuses, or does not leave in time."""
    deadline = time.monotonic() + limits.LEAVE_S
    ended = False
    while not lock.try_acquire():
        if time.monotonic() > deadline:
            raise ObdError("timed-out", f"process {lock.holder()} does not leave in {limits.LEAVE_S:g} s")
        ready = () if ended else select([asker], (), (), _LOOK_S)[0]
        if ended:
            time.sleep(_LOOK_S)
        if ready:
            said = _said(asker)
            if said:
                raise ObdError("busy", f"the daemon that is running goes on: {said}")
            ended = True


def _said(asker: socket.socket) -> str:
    try:
        return asker.recv(MAX_LINE_BYTES).decode(errors="replace")
    except OSError:
        return ""
