"""Work that some wait for, but not for longer than a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from obd.snapshotter.errors import DEADLINE_EXCEEDED, SnapshotError

T = TypeVar("T")


class Work(Generic[T]):
    """A call that one thread carries out and another one waits for."""

    def __init__(self, act: Callable[[], T]) -> None:
        self._act: Final = act
        self.waiting = 0
        """How many wait for it: for those who share it to count."""
        self._done: Final = threading.Event()
        self._result: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Carries it out."""
        try:
            self._result.append(self._act())
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def result(self, deadline: float, what: str) -> T:
        """What came of it. Raises what it raised, or `SnapshotError` with `what` once it is too late."""
        if not self._done.wait(min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)):
            raise SnapshotError(DEADLINE_EXCEEDED, what)
        if self._error is not None:
            raise self._error
        return self._result[0]
