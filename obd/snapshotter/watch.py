"""Hearing at once that a process which serves a device has died, however many there are."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from contextlib import suppress
from typing import Final


class Watch:
    """Waits for the end of processes, for `wake` and for `stop`, which are for any thread and for signals."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.stopped = False

    def wake(self) -> None:
        """Has `wait` return: there may be other processes to wait for."""
        with suppress(BlockingIOError):
            os.write(self._write, b"w")

    def stop(self, *_: object) -> None:
        """Has `wait` return, and says that it was for good."""
        self.stopped = True
        self.wake()

    def wait(self, pids: Iterable[int], limit_s: float) -> None:
        """Returns when any of the processes has ended, somebody woke it, or after some time."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        descriptors: Final[list[int]] = []
        try:
            for pid in pids:
                try:
                    descriptors.append(os.pidfd_open(pid))
                except ProcessLookupError:
                    return
                poll.register(descriptors[-1], select.POLLIN)
            poll.poll(1000 * limit_s)
            with suppress(BlockingIOError):
                os.read(self._read, 4096)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def close(self) -> None:
        """Closes the pipe."""
        os.close(self._read)
        os.close(self._write)
