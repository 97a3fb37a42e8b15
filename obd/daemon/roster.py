"""The devices that are ours, and what happens to them: they are added, removed, taken over, left."""

from __future__ import annotations

import errno
import logging
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import tcmu
from obd.daemon import limits
from obd.daemon.answer import Answer
from obd.daemon.process import trim
from obd.daemon.served import Served
from obd.daemon.standstill import Standstill
from obd.daemon.target import Ids
from obd.daemon.work import Pool, Strand
from obd.errors import line_of

if TYPE_CHECKING:
    from obd.overview import Overview
    from obd.service import Service

_log: Final = logging.getLogger("overlaybd.tcmu")

# What a kernel says of a backstore that is not there, or not yet there for its users.
_GONE: Final = (errno.EINVAL, errno.ENOENT, errno.ENODEV)
# What tells a creator to try again, which it would do for ever.
_TRY_AGAIN: Final = (errno.EAGAIN, errno.EINTR)
# Memory is given back after so many devices.
_TRIM_EVERY: Final = 100


class Roster:
    """The devices by minor number, which the kernel uses again at once.

    What happens to one number happens in the order in which it was asked for, in threads of its own; a device
    that hangs delays no other.
    """

    def __init__(self, service: Service, overview: Overview) -> None:
        self._service: Final = service
        self._overview: Final = overview
        self._ids: Final = Ids()
        self._openers: Final = Pool("open", limits.OPENERS)
        self._closers: Final = Pool("close", limits.CLOSERS)
        self._lock: Final = threading.Lock()
        self._served: Final[dict[int, Served]] = {}
        self._strands: Final[dict[int, Strand]] = {}
        self._retries: Final[list[tuple[float, Served, int]]] = []
        self._closed = 0
        self._leaving = False

    def all(self) -> list[Served]:
        """Those that are served, being opened or taken over."""
        with self._lock:
            return list(self._served.values())

    def is_open(self, minor: int) -> bool:
        """Whether the device of a number is being served."""
        served = self._served.get(minor)
        return served is not None and served.ring is not None

    @property
    def idle(self) -> bool:
        """Whether all that was asked for has been done."""
        with self._lock:
            return all(strand.idle for strand in self._strands.values())

    @property
    def busy(self) -> bool:
        """Whether any thread is at work."""
        return self._openers.busy + self._closers.busy > 0

    def add(self, device: tcmu.Device, answer: Answer) -> Served:
        """Opens a new device, and answers."""
        served = self._enlist(device)
        self._strand(device.minor).submit(self._openers, lambda: self._open(served, answer))
        return served

    def _enlist(self, device: tcmu.Device) -> Served:
        served = Served(device, self._service, self._overview, self._ids)
        with self._lock:
            before = self._served.get(device.minor)
            self._served[device.minor] = served
        if before is not None:
            _log.warning("%s is gone and was not announced to be", before.name)
            self._drop(before)
        return served

    def _drop(self, served: Served) -> None:
        """Closes what is not in the list any more."""
        served.abandon()
        self._strand(served.device.minor).submit(self._closers, lambda: self._close(served))

    def _strand(self, minor: int) -> Strand:
        with self._lock:
            return self._strands.setdefault(minor, Strand())

    def _open(self, served: Served, answer: Answer) -> None:
        error = errno.EIO
        try:
            if answer.given:
                return
            served.open()
            error = 0
        except OSError as failure:
            error = errno.EAGAIN if self._leaving else errno_of(failure)
            _log.error("%s is refused: %s", served.name, line_of(failure))
        finally:
            if error:
                self._forget(served)
            if answer.give(error):
                if not error:
                    _log.info("%s is served: %s", served.name, served.device.config)
            elif not error:
                _log.warning("%s is open, and too late", served.name)
                self._forget(served)
                self._close(served)

    def give_up(self, served: Served, why: str) -> None:
        """Has a device that is being opened closed as soon as it is open; what comes next need not wait."""
        served.abandon()
        if self._is_listed(served):
            self._forget(served)
            self.set_free(served.device.minor)
        _log.error("%s is refused: %s", served.name, why)
        self._closers.submit(lambda: served.failed(why))

    def set_free(self, minor: int) -> None:
        """Lets what comes next of a number not wait for what hangs."""
        with self._lock:
            self._strands.pop(minor, None)

    def _is_listed(self, served: Served) -> bool:
        return self._served.get(served.device.minor) is served

    def _forget(self, served: Served) -> None:
        with self._lock:
            if self._is_listed(served):
                del self._served[served.device.minor]

    def remove(self, device: tcmu.Device, answer: Answer | None = None) -> None:
        """Closes a device, and answers."""
        with self._lock:
            served = self._served.pop(device.minor, None)
        if served is not None:
            served.abandon()

        def close() -> None:
            try:
                if served is not None:
                    self._close(served)
            finally:
                if answer is not None:
                    answer.give()
                _log.info("%s is removed", device.backstore)

        self._strand(device.minor).submit(self._closers, close)

    def _close(self, served: Served, drain_s: float = 0.0) -> bool:
        good = served.close(drain_s)
        self._closed += 1
        if self._closed % _TRIM_EVERY == 0:
            trim()
        return good

    def resize(self, device: tcmu.Device, size_bytes: int, answer: Answer) -> None:
        """Makes a device larger, and answers."""
        served = self._served.get(device.minor)

        def resize() -> None:
            error = errno.EIO
            try:
                error = served.resize(size_bytes) if served else errno.ENODEV
            except OSError as failure:
                error = errno_of(failure)
                _log.error("%s cannot have %d bytes: %s", device.backstore, size_bytes, line_of(failure))
            finally:
                answer.give(error)

        self._strand(device.minor).submit(self._closers, resize)

    def take_over(self, device: tcmu.Device) -> None:
        """Begins to serve a device that exists; tries until it can, or the device is gone. Users wait."""
        self._try(self._enlist(device), 0)

    def serve_again(self, served: Served) -> None:
        """Takes over a device of ours whose ring has failed."""
        _log.warning("%s: its ring has failed; it is taken over anew", served.name)
        self._strand(served.device.minor).submit(self._closers, lambda: self._close(served))
        self._try(served, 0)

    def _try(self, served: Served, attempt: int) -> None:
        self._strand(served.device.minor).submit(self._openers, lambda: self._take_over(served, attempt))

    def _take_over(self, served: Served, attempt: int) -> None:
        began = False

        def serve(device: tcmu.Device) -> None:
            nonlocal began
            began = True
            served.open()

        # A ring that is served must not be reset.
        if not self._is_listed(served) or served.ring is not None:
            return
        try:
            tcmu.take_over(served.device, serve)
            served.failure = ""
            _log.info("%s is taken over: %s", served.name, served.device.config)
        except Exception as failure:
            if not began and isinstance(failure, OSError) and failure.errno in _GONE:
                _log.info("%s is gone, or still being created: %s", served.name, line_of(failure))
                self._forget(served)
                return
            served.close()
            if served.is_news(line_of(failure)):
                _log.error("%s cannot be taken over, its users wait: %s", served.name, line_of(failure))
            pause_s = limits.RETRY_S[min(attempt, len(limits.RETRY_S) - 1)]
            with self._lock:
                self._retries.append((time.monotonic() + pause_s, served, attempt + 1))

    def retry(self) -> None:
        """Tries again to take over what could not be, if it is time."""
        now = time.monotonic()
        with self._lock:
            due = [each for each in self._retries if each[0] <= now]
            self._retries[:] = [each for each in self._retries if each[0] > now]
        for _, served, attempt in due:
            self._try(served, attempt)

    def stand_still(self) -> Standstill:
        """Lets nothing be under way any more."""
        return Standstill(self.all(), self._closers)

    def leave(self) -> None:
        """Closes all, which should stand still; the kernel makes their users wait for the next daemon."""
        self._leaving = True
        # Those first that need not be waited for.
        for served in sorted(self.all(), key=lambda served: served.active):
            served.abandon()
            self._forget(served)
            if served.ring is None:
                self.set_free(served.device.minor)  # who opens it finds out that nobody wants it
            else:
                self._strand(served.device.minor).submit(self._closers, partial(self._leave, served))

    def _leave(self, served: Served) -> None:
        with suppress(OSError):  # it may have come after all stood still
            served.device.backstore.block()
        good = self._close(served, limits.LAST_S)
        _log.info("%s is left to the next daemon%s", served.name, "" if good else ", with errors")


def errno_of(error: OSError) -> int:
    """The most telling errno for who hears nothing else: that of the cause, if the error only has EIO."""
    number, cause = error.errno or errno.EIO, error.__cause__
    if number == errno.EIO and isinstance(cause, OSError) and cause.errno:
        number = cause.errno
    return errno.EIO if number in _TRY_AGAIN else number
