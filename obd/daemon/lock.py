"""One daemon on a host: a lock, and who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import Final

from obd.errors import ObdError
from obd.mount.state import run_directory

# How often the lock is tried while another daemon is leaving.
_TRY_S: Final = 0.005


class InstanceLock:
    """The lock, held until the process ends. Its file names the process that holds it."""

    def __init__(self, name: str = "tcmu.lock") -> None:
        """Opens the file. Raises `OSError` if it cannot be."""
        directory = run_directory()
        os.makedirs(directory, mode=0o755, exist_ok=True)
        self.path: Final = os.path.join(directory, name)
        self._fd: Final = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def acquire(self, timeout_s: float = 0.0) -> None:
        """Takes the lock, waits for it up to `timeout_s`. `ObdError` of kind "busy" names who holds it."""
        deadline = time.monotonic() + timeout_s
        while not self._try():
            if time.monotonic() >= deadline:
                raise ObdError(
                    "busy", f"another daemon is running, process {self.holder() or '?'}", self.path
                )
            time.sleep(_TRY_S)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def _try(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def holder(self) -> int:
        """The number of the process that holds the lock, 0 if that is not known."""
        with contextlib.suppress(OSError, ValueError):
            return int(os.pread(self._fd, 20, 0))
        return 0
