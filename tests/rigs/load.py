"""A thread that reads, writes, discards and flushes a part of a device, and checks it by a ledger."""

import errno
import fcntl
import mmap
import os
import random
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from tests.rigs.stamps import SECTOR, ZERO, Ledger, stamps

BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F  # linux/fs.h
BLOCK_SECTORS = 8
MOST_SECTORS = 256
PATIENCE_S = 120.0
END_S = 5.0

# What a device may say while something is wrong.
EXPECTED = {errno.EIO, errno.ENOSPC, errno.ENXIO, errno.ENOTCONN, errno.ECONNABORTED, errno.EREMOTEIO}


class Load:
    """Works from `start` until `stop`, on a device that `path` names, past the page cache.

    `seed` decides what is done, in which order. While `fragile` is set requests may fail; what fails at
    another time, and wrong bytes at any time, are in `problem`. `rate` bounds requests a second.
    """

    def __init__(
        self, path: str | Path, ledger: Ledger, seed: int, *, writes: bool = True, rate: float = 0
    ) -> None:
        self.path, self.ledger = path, ledger
        self.fragile = threading.Event()
        self.problem = ""
        self.done = self.failed = self.acknowledged_bytes = 0
        self.flushes = self.discards = 0
        self.last_error = 0
        self._numbers = random.Random(seed)
        self._writes, self._pause_s = writes, 1 / rate if rate else 0.0
        self._generation = 0
        self._buffer = mmap.mmap(-1, MOST_SECTORS * SECTOR)  # aligned, as O_DIRECT wants it
        self._over = threading.Event()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._fd = -1

    def start(self) -> "Load":
        """Begins, or goes on after `stop`."""
        self._over.clear()
        self._fd = os.open(self.path, (os.O_RDWR if self._writes else os.O_RDONLY) | os.O_DIRECT)
        self._thread = threading.Thread(target=self._run, name=f"load {self.path}", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends after the present request. Raises `AssertionError` for what has gone wrong."""
        self._over.set()
        if self._thread:
            self._thread.join(PATIENCE_S)
            assert not self._thread.is_alive(), f"{self.path}: a request does not end"
            self._thread = None
            os.close(self._fd)
        assert not self.problem, self.problem

    def give_up(self) -> None:
        """Ends as soon as that can be; what it has open is closed."""
        self.problem = self.problem or "the rig has failed"
        if self._thread:
            self._thread.join(END_S)
            if not self._thread.is_alive():
                os.close(self._fd)
            self._thread = None

    def wait(self, more: int) -> None:
        """Returns when so many more requests have been answered rightly. Raises `AssertionError`."""
        goal = self.done + more
        self.until(lambda: self.done >= goal, f"{more} requests")

    def until(self, true: Callable[[], object], what: str) -> None:
        """Returns when something is true that changes with the requests. Raises `AssertionError`."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.problem or true(), PATIENCE_S), f"no {what}"
        assert not self.problem, self.problem

    def verify(self) -> None:
        """Reads all that the ledger knows of, in order, while the load is stopped."""
        self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        try:
            end = self.ledger.first + self.ledger.count
            for first in range(self.ledger.first, end, MOST_SECTORS):
                self._read(first, min(MOST_SECTORS, end - first))
        finally:
            os.close(self._fd)

    def _run(self) -> None:
        while not self._over.is_set() and not self.problem:
            failed = 0
            fragile = self.fragile.is_set()
            try:
                self._step()
            except OSError as error:
                failed = error.errno or errno.EIO
                fragile = fragile or self.fragile.is_set()
                if not (fragile and failed in EXPECTED):
                    self.problem = f"{self.path}: {error} after {self.done} requests"
            except AssertionError as error:
                self.problem = f"{self.path}: {error} after {self.done} requests"
            with self._changed:
                if failed:
                    self.failed += 1
                    self.last_error = failed
                else:
                    self.done += 1
                self._changed.notify_all()
            if self._pause_s or failed:
                self._over.wait(max(self._pause_s, 0.005 if failed else 0))

    def _step(self) -> None:
        """One request."""
        numbers, ledger = self._numbers, self.ledger
        count = min(numbers.choice((1, 7, 8, 8, 8, 64, MOST_SECTORS)), ledger.count)
        first = ledger.first + numbers.randrange(ledger.count - count + 1)
        what = numbers.random() if self._writes else 0.0
        if what < 0.45:
            self._read(first, count)
        elif what < 0.90:
            self._write(first, count)
        elif what < 0.95:
            self._discard(numbers.choice((BLKDISCARD, BLKZEROOUT)), first, count)
        else:
            os.fsync(self._fd)
            self.flushes += 1

    def _read(self, first: int, count: int) -> None:
        view = memoryview(self._buffer)[: count * SECTOR]
        done = os.preadv(self._fd, [view], first * SECTOR)
        assert done == len(view), f"{done} bytes of {len(view)} read at sector {first}"
        self.ledger.check(first, view)

    def _write(self, first: int, count: int) -> None:
        self._generation += 1
        view = memoryview(self._buffer)[: count * SECTOR]
        view[:] = stamps(self.ledger.seed, first, count, self._generation)
        try:
            done = os.pwritev(self._fd, [view], first * SECTOR)
        except OSError:
            self.ledger.may_have_written(first, count, self._generation)
            raise
        whole = done // SECTOR
        self.ledger.wrote(first, whole, self._generation)
        self.acknowledged_bytes += done
        if whole < count:  # what comes next is an error of the device
            self.ledger.may_have_written(first + whole, count - whole, self._generation)
            raise OSError(errno.EIO, "a short write")

    def _discard(self, request: int, first: int, count: int) -> None:
        first -= first % BLOCK_SECTORS  # of less than a block it is only a hint
        count = max(count // BLOCK_SECTORS, 1) * BLOCK_SECTORS
        if first < self.ledger.first or first + count > self.ledger.first + self.ledger.count:
            return
        try:
            fcntl.ioctl(self._fd, request, struct.pack("QQ", first * SECTOR, count * SECTOR))
        except OSError:
            self.ledger.may_have_written(first, count, ZERO)
            raise
        self.ledger.wrote(first, count, ZERO)
        self.discards += 1


def spread(
    path: str | Path, size: int, *, parts: int, seed: int, base: int, writes: bool = True, rate: float = 0
) -> list[Load]:
    """Loads side by side on parts of a device; `base` is the generation of what it holds now."""
    each = size // SECTOR // parts // BLOCK_SECTORS * BLOCK_SECTORS
    return [
        Load(
            path,
            Ledger(1, part * each, each, base),
            seed * 1000 + part,
            writes=writes,
            rate=rate,
        )
        for part in range(parts)
    ]
