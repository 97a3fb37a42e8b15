"""The threads of a conversion: so many and no more, and all of them end at the first failure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
# How often a thread that waits for its turn looks whether there is any sense in it still.
_LOOK_S: Final = 0.2
# Time for what is under way when something has failed. A server that says nothing may take longer.
_STOP_S: Final = 2.0


class Cancelled(Exception):
    """Something else has failed: there is no use in going on."""


class Crew:
    """Pools of `jobs` threads: of images, of work on layers, of transfers to and fro.

    Of the first two at most `jobs` compute at once. As a context manager it ends all of them, and raises the
    first failure rather than those that came of it.
    """

    def __init__(self, jobs: int) -> None:
        def pool(name: str) -> ThreadPoolExecutor:
            return ThreadPoolExecutor(jobs, f"convert-{name}")

        self.images: Final = pool("image")
        self.layers: Final = pool("layer")
        self.fetches: Final = pool("fetch")
        self.pushes: Final = pool("push")
        self._turns = threading.BoundedSemaphore(jobs)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._begun: set[Future[Any]] = set()

    def submit(
        self, pool: ThreadPoolExecutor, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        """Has a pool do some work, whose failure is everybody's."""

        def run() -> _T:
            self.check()
            try:
                return work(*args, **kwargs)
            except BaseException as error:
                self.fail(error)
                raise

        future = pool.submit(run)
        with self._lock:
            self._begun.add(future)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: Future[Any]) -> None:
        with self._lock:
            self._begun.discard(future)

    def fail(self, error: BaseException) -> None:
        """Ends the work of all, because of `error` unless something was wrong before."""
        with self._lock:
            if self._failure is None and not isinstance(error, Cancelled):
                self._failure = error
        self._stop.set()

    def check(self, *_: object) -> None:
        """Raises `Cancelled` if the work is to end; what the core takes for showing progress."""
        if self._stop.is_set():
            raise Cancelled

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until fewer than `jobs` compute, and is one of them meanwhile."""
        while not self._turns.acquire(timeout=_LOOK_S):
            self.check()
        try:
            self.check()
            yield
        finally:
            self._turns.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error)
        for pool in (self.images, self.layers, self.fetches, self.pushes):
            pool.shutdown(wait=error is None, cancel_futures=True)
        if error is not None:
            with self._lock:
                left = set(self._begun)
            wait(left, timeout=_STOP_S)
        if self._failure is not None and self._failure is not error:
            raise self._failure from None
