"""One daemon on a host: a lock, and who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Final

from obd.errors import ObdError
from obd.state import run_directory


def running(name: str = "tcmu.lock") -> int:
    """The process that holds the lock, 0 if none does. Only looks: no daemon that starts now is refused."""
    path = os.path.join(run_directory(), name)
    with contextlib.suppress(OSError, ValueError), open(path) as file, open("/proc/locks") as locks:
        held = f" {int(file.read(20))} ", f":{os.fstat(file.fileno()).st_ino} "
        if any(" FLOCK " in line and all(word in line for word in held) for line in locks):
            return int(held[0])
    return 0


class InstanceLock:
    """The lock, held until `release` or the end of the process. Its file names the process that holds it."""

    def __init__(self, name: str = "tcmu.lock") -> None:
        """Opens the file. Raises `OSError` if it cannot be."""
        directory = run_directory()
        os.makedirs(directory, mode=0o755, exist_ok=True)
        self.path: Final = os.path.join(directory, name)
        self._fd: Final = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def try_acquire(self) -> bool:
        """Takes the lock if nobody has it."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
            return True
        return False

    def acquire(self) -> None:
        """Takes the lock. `ObdError` of kind "busy" names who has it."""
        if not self.try_acquire():
            what = f"another daemon is running, process {self.holder() or '?'}"
            raise ObdError("busy", what, self.path)

    def release(self) -> None:
        """Gives it to the next daemon."""
        os.close(self._fd)

    def holder(self) -> int:
        """The number of the process that holds the lock, 0 if that is not known."""
        with contextlib.suppress(OSError, ValueError):
            return int(os.pread(self._fd, 20, 0))
        return 0
