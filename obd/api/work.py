"""Work that a request asks for and that may take long: bounded in time, and one at a time for each thing."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Final, TypeVar

from obd.errors import ObdError

T = TypeVar("T")

# How long a request waits for a change of the same thing that is under way.
BUSY_S: Final = 10.0
# How long an answer may take. What is not done by then goes on.
LIMIT_S: Final = 120.0
# Works under way at a time, those included that nobody waits for any more. Fewer than `MAX_THREADS` of the
# server, so that what is not work is answered meanwhile.
MAX_WORKS: Final = 8


class Works:
    """Does works for requests."""

    def __init__(self) -> None:
        self._locks: Final[weakref.WeakKeyDictionary[object, threading.Lock]] = weakref.WeakKeyDictionary()
        self._lock: Final = threading.Lock()
        self._places: Final = threading.BoundedSemaphore(MAX_WORKS)

    def do(self, work: Callable[[], T], of: object | None = None) -> T:
        """Calls `work` while no other work of the thing `of` is under way; returns or raises what it does.

        Raises `ObdError`: "busy" if another does not end, "timed-out" if this one takes too long: it goes on.
        """
        # First: those that wait for another hold up a thread of the server too.
        if not self._places.acquire(blocking=False):
            raise ObdError("busy", f"{MAX_WORKS} changes are under way")
        with self._lock:
            lock = threading.Lock() if of is None else self._locks.setdefault(of, threading.Lock())
        if not lock.acquire(timeout=BUSY_S):
            self._places.release()
            raise ObdError("busy", "another change of it is under way")
        outcome: list[T] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                outcome.append(work())
            except BaseException as error:
                failures.append(error)
            finally:
                self._places.release()
                lock.release()

        thread = threading.Thread(target=run, name="api-work", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._places.release()
            lock.release()
            raise
        thread.join(LIMIT_S)
        if failures:
            raise failures[0]
        if not outcome:
            raise ObdError("timed-out", f"not done in {LIMIT_S:g} s; it goes on")
        return outcome[0]
