"""A file that is written past the page cache, which filling it with gigabytes would otherwise push out."""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
from typing import Final

from cache.aio import Queue

_log: Final = logging.getLogger("overlaybd.download")

# What O_DIRECT wants offsets, lengths and addresses to be multiples of: enough for every usual disk.
ALIGNMENT: Final = 4096


class Slot:
    """A piece of memory that direct writes can take."""

    def __init__(self, index: int, size: int) -> None:
        memory = mmap.mmap(-1, size)
        self.index: Final = index
        self.view: Final = memoryview(memory)
        self.address: Final = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self.offset = 0
        self.length = 0
        """What of it is being written, and where to."""


class DirectFile:
    """Writes an existing file by O_DIRECT and AIO, a few at a time; by ordinary writes where it has to.

    Not for use by several threads at once. Failures are `OSError` with file and offset.
    """

    def __init__(self, path: str, *, slots: int, slot_bytes: int) -> None:
        """`slots` pieces of memory of `slot_bytes` each, a multiple of `ALIGNMENT`."""
        self._path: Final = path
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._direct_fd = -1
        self._queue: Queue | None = None
        self.direct = True
        """Whether writes go past the page cache."""
        self.failed = False
        """Whether a write or a sync has failed: what was written may be lost, whatever a later sync says."""
        try:
            self._slots: Final = [Slot(index, slot_bytes) for index in range(slots)]
            self._free: Final = list(self._slots)
            try:
                self._direct_fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
                self._queue = Queue(slots)
            except OSError as error:
                self._go_ordinary(error.strerror or str(error))
        except BaseException:
            self.close()
            raise

    def take(self) -> Slot:
        """A slot to fill and give to `write` (or back, by `give`). Waits for a write to end if need be."""
        while not self._free:
            self._reap()
        return self._free.pop()

    def give(self, slot: Slot) -> None:
        """Takes back a slot that is not to be written."""
        self._free.append(slot)

    def write(self, slot: Slot, length: int, offset: int) -> None:
        """Writes the first `length` bytes of a slot at `offset`; they are there once `drain` has returned."""
        whole = 0 if offset % ALIGNMENT else length - length % ALIGNMENT
        if self.direct and self._queue is not None and whole:
            # What does not fill a block is written as usual: a direct write would lengthen the file.
            self._write_all(slot.view[whole:length], offset + whole)
            slot.offset, slot.length = offset, whole
            try:
                self._queue.write(self._direct_fd, slot.address, whole, offset, slot.index)
                return
            except OSError as error:
                self._settle(slot, -(error.errno or errno.EIO))
                return
        self._write_all(slot.view[:length], offset)
        self.give(slot)

    def drain(self) -> None:
        """Returns when all writes have ended. Raises the first failure."""
        while self._queue is not None and self._queue.pending:
            self._reap()

    def sync(self) -> None:
        """Returns when all that was written is durable."""
        self.drain()
        try:
            os.fdatasync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._failure(error.errno, "sync") from None

    def close(self) -> None:
        """Ends all writes; what was not drained may or may not be there."""
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.close()
        for fd in (self._fd, self._direct_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._direct_fd = -1

    def _reap(self) -> None:
        assert self._queue is not None, "without a queue every slot is free again at once"
        for index, result in self._queue.wait():
            self._settle(self._slots[index], result)

    def _settle(self, slot: Slot, result: int) -> None:
        """Ends the write of a slot, with what is missing of it written as usual."""
        self._free.append(slot)
        if result == -errno.EINVAL:
            # Some file systems only say so when they are written to.
            self._go_ordinary(os.strerror(errno.EINVAL))
        elif result < 0:
            raise self._failure(-result, f"write {slot.length} bytes at {slot.offset}")
        done = max(0, result)
        self._write_all(slot.view[done : slot.length], slot.offset + done)

    def _write_all(self, view: memoryview, offset: int) -> None:
        while view:
            try:
                done = os.pwrite(self._fd, view, offset)
            except OSError as error:
                raise self._failure(error.errno, f"write {len(view)} bytes at {offset}") from None
            view, offset = view[done:], offset + done

    def _go_ordinary(self, why: str) -> None:
        if self.direct:
            self.direct = False
            _log.info("%s: written through the page cache: no direct writes here: %s", self._path, why)

    def _failure(self, number: int | None, what: str) -> OSError:
        number = number or errno.EIO
        self.failed = True
        return OSError(number, f"{what}: {os.strerror(number)}", self._path)
