"""Threads for what may take long, and the order in which things happen to one device."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

_log: Final = logging.getLogger("overlaybd.tcmu")

Job = Callable[[], object]


class Pool:
    """Runs jobs in threads that start on demand, up to a number, and end when there is nothing to do.

    They do not keep the process from ending: a job may hang in a disk or a registry for longer than that.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name: Final = name
        self._most: Final = most
        self._lock: Final = threading.Lock()
        self._queue: Final[deque[Job]] = deque()
        self._threads = 0

    def submit(self, job: Job) -> None:
        """Runs a job as soon as there is a thread for it. `RuntimeError` if there can be none at all."""
        with self._lock:
            self._queue.append(job)
            if self._threads == self._most:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._threads -= 1
                if self._threads == 0 and job in self._queue:
                    self._queue.remove(job)
                    raise

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                job = self._queue.popleft()
            try:
                job()
            except BaseException:  # a panic of the core is no Exception, and no reason to lose the thread
                _log.exception("a job failed")
            del job  # what it held must not live until the next one

    @property
    def busy(self) -> int:
        """Threads that are at work."""
        return self._threads


class Strand:
    """Jobs that are carried out one after the other, each in the pool that it is given to."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._jobs: Final[deque[tuple[Pool, Job]]] = deque()
        self._running = False

    def submit(self, pool: Pool, job: Job) -> None:
        """Carries out a job after all that were submitted before."""
        with self._lock:
            self._jobs.append((pool, job))
            if self._running:
                return
            self._running = True
        self._next()

    def _next(self) -> None:
        with self._lock:
            if not self._jobs:
                self._running = False
                return
            pool, job = self._jobs.popleft()
        try:
            pool.submit(lambda: self._run(job))
        except RuntimeError:
            # Without a thread it is done here: what follows must not wait for ever.
            _log.exception("no thread can be started")
            self._run(job)

    def _run(self, job: Job) -> None:
        try:
            job()
        finally:
            self._next()

    @property
    def idle(self) -> bool:
        """Whether all has been carried out."""
        return not self._running
