"""Linux AIO through `libaio.so.1`: writes that go on while the caller does something else."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_PWRITE: Final = 1


class _Iocb(ctypes.Structure):
    """`struct iocb` of little-endian 64-bit systems."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_int16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_int32),
        ("buffer", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_fd", ctypes.c_int32),
    )


class _Event(ctypes.Structure):
    """`struct io_event`."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("iocb", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class Queue:
    """An AIO context. Not for use by several threads at once.

    Memory that was handed in must stay in place until `wait` has named its token, or `close` has returned.
    """

    def __init__(self, depth: int) -> None:
        """Room for `depth` requests. Raises `OSError` where there is no libaio, or the kernel has no room."""
        try:
            self._library: Final = _load()
            for name in ("io_setup", "io_submit", "io_getevents", "io_destroy"):
                getattr(self._library, name).restype = ctypes.c_int
        except (OSError, AttributeError) as error:
            raise OSError(errno.ENOSYS, f"libaio.so.1 cannot be used: {error}") from None
        self._context: ctypes.c_void_p | None = ctypes.c_void_p()
        self._iocbs: dict[int, _Iocb] = {}
        self._events = (_Event * depth)()
        _check(self._library.io_setup(depth, ctypes.byref(self._context)), "io_setup")

    @property
    def pending(self) -> int:
        """Requests whose outcome `wait` has not told yet."""
        return len(self._iocbs)

    def write(self, fd: int, address: int, length: int, offset: int, token: int) -> None:
        """Asks for `length` bytes at `address` to be written to `fd`; `token` is no pending one's.

        Raises `OSError` if the kernel does not take the request.
        """
        iocb = _Iocb(data=token, opcode=_PWRITE, fd=fd, buffer=address, length=length, offset=offset)
        pointers = (ctypes.POINTER(_Iocb) * 1)(ctypes.pointer(iocb))
        while True:
            done = self._library.io_submit(self._context, ctypes.c_long(1), pointers)
            if done not in (-errno.EINTR, -errno.EAGAIN):
                break
        _check(done, "io_submit")
        self._iocbs[token] = iocb

    def wait(self) -> list[tuple[int, int]]:
        """Waits for at least one pending request; returns tokens with bytes written, or minus the errno."""
        count = ctypes.c_long(len(self._events))
        while True:
            done = self._library.io_getevents(self._context, ctypes.c_long(1), count, self._events, None)
            if done != -errno.EINTR:
                break
        _check(done, "io_getevents")
        outcomes = [(int(event.data), int(event.result)) for event in self._events[:done]]
        for token, _ in outcomes:
            del self._iocbs[token]
        return outcomes

    def close(self) -> None:
        """Waits for all that is pending, and gives the context back."""
        if self._context is not None:
            # The kernel ends only when nobody reads or writes the memory any more.
            self._library.io_destroy(self._context)
            self._context = None
            self._iocbs.clear()


def _load() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libaio.so.1")
    except OSError as error:
        try:
            return ctypes.CDLL("libaio.so.1t64")  # as Debian calls it since its 64-bit times on all systems
        except OSError:
            raise error from None


def _check(result: int, call: str) -> None:
    if result < 0:
        raise OSError(-result, f"{call}: {os.strerror(-result)}")
