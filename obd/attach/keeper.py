"""The process that keeps one device: serves its image until the device is taken away, then flushes.

Run as a module by `obd.attach.process`; knows nothing of who started it.
"""

import contextlib
import ctypes
import json
import logging
import os
import select
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace
from logging.handlers import RotatingFileHandler
from types import FrameType
from typing import Any, Final

from obd.attach.process import MAX_REPORT_BYTES, Request
from obd.attach.ways import Way, certainly, way
from obd.credentials.protect import no_core_dumps
from obd.errors import ObdError, kind_of, line_of
from obd.logs import OneLine
from obd.privileges import KEEPING, give_up
from obd.state import State, StateDirectory

_log: Final = logging.getLogger("overlaybd.keeper")

# linux/prctl.h: this process is on the path of writing memory back, so it must not wait for that.
_PR_SET_IO_FLUSHER: Final = 57

# Log of one device: small, because it lies in memory (/run).
_LOG_BYTES: Final = 256 << 10

# How often to look whether somebody else has taken the device away, which is not announced.
LOOK_MS: Final = 1000


class _Stop(Exception):
    """SIGTERM arrived while the device was being set up."""


class Stops:
    """Requests to end: SIGTERM raises an exception during the set-up, and can be waited for after it."""

    def __init__(self) -> None:
        self.fd, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._setting_up = True
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._setting_up:
            raise _Stop("stopped")

    def hold(self) -> None:
        """The set-up is over."""
        self._setting_up = False

    def taken(self) -> None:
        """Forgets the requests that have come."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 64)


class Keeper:
    """Serves the image of a request, as a device and perhaps as a mount."""

    def __init__(self, request: Request, place: StateDirectory, stops: Stops, by: Way) -> None:
        self._request = request
        self._place = place
        self._stops = stops
        self._way = by
        self.observer: Any = None
        self._device: Any = None
        self._served: Any = None
        self.warning = ""
        # Why what was acknowledged may not be on disk.
        self._failures: list[str] = []

    def set_up(self, undo: ExitStack) -> None:
        """Opens, serves, attaches and mounts; how to take it back is put into `undo`."""
        from obd.image import open_device
        from obd.observer import Observer
        from obd.service import Service

        request, place = self._request, self._place
        service = Service(request.service)
        observer = Observer(service, "obd mount" if request.directory else "obd attach")
        self.observer = undo.enter_context(observer)
        device = self._device = undo.enter_context(open_device(request.config, service))
        if device.read_only and not request.read_only:
            what = "the image has no upper to write to (make one with overlaybd-create)"
            raise ObdError("read-only", what, request.config)
        served: Any = self._way.serve(
            device.native,
            place,
            read_only=request.read_only,
            on_error=lambda name, error: _log.error("%s: %s", request.config, line_of(error)),
            again=request.again,
        )
        self._served = served
        device.on_grown = self._grow
        if not request.again:
            undo.callback(served.undo)
        if request.directory and not request.again:
            from obd.mount.hold import mount

            self.warning = mount(served, request, device, undo)
        try:
            self._write()
        except OSError as error:
            # Users wait: they are served, and the guard names this process as soon as that can be written.
            if not (request.again and request.via == "fuse"):
                raise
            _log.warning("%s", line_of(error))
        served.let_go()
        observer.overview.add(request.directory or request.config, device, served.path)

    def _grow(self) -> None:
        """The image has grown. If its device cannot, that is a warning: it does when it is attached anew."""
        try:
            self._served.grown()
        except OSError as error:
            _log.warning("%s keeps its size: %s", self.path, line_of(error))

    @property
    def path(self) -> str:
        """The device."""
        path: str = self._served.path
        return path

    def wait(self) -> None:
        """Returns when the device has been taken away."""
        try:
            self.observer.listen()
        except Exception as error:
            _log.warning("the device cannot be watched: %s", line_of(error))
        if self._request.directory:
            from obd.mount.hold import wait_until_unused

            wait_until_unused(self._request.directory, self._served, self._stops)
            return
        poll = select.poll()
        poll.register(self._stops.fd, select.POLLIN)
        while not certainly(lambda: not self._way.is_ours(self._place, self.path)):
            if poll.poll(LOOK_MS):
                self._stops.taken()
                try:
                    self._way.take_away(self._place, self.path)
                except OSError as error:
                    _log.warning("asked to end, but %s", line_of(error))
                    if isinstance(error, ObdError) and error.kind == "io":
                        self._failures.append(line_of(error))

    def end(self) -> int:
        """The last steps, each of which must happen whatever the one before said. Returns the exit status."""
        failures = self._failures
        for step in (self._served.stop, self._device.close):
            try:
                step()
            except OSError as error:
                failures.append(line_of(error))
        if failures:
            # Where it is found when the device is taken away.
            _log.error("closing %s: %s", self._request.config, "; ".join(failures))
            self._write("; ".join(failures))
            return 1
        self._place.remove()
        return 0

    def _write(self, error: str = "") -> None:
        request = self._request
        self._place.write(
            State(
                config=request.config,
                via=request.via,
                read_only=request.read_only,
                path=self.path,
                pid=os.getpid(),
                directory=request.directory,
                why=request.why,
                error=error,
                service=request.service or "",
            )
        )


def keep(request: Request, place: StateDirectory, report_fd: int, by: Way) -> int:
    """Sets up, reports on `report_fd` and keeps; the exit status.

    The report is JSON: `kind` and `error`, or `path`, `pid` and `warning`. If the set-up fails nothing is
    left, but for a device that was there before.
    """

    def report(**message: Any) -> None:
        os.write(report_fd, json.dumps(message).encode()[:MAX_REPORT_BYTES])
        os.close(report_fd)

    stops = Stops()
    with ExitStack() as undo:
        if not request.again:
            undo.callback(place.remove)
        try:
            keeper = Keeper(request, place, stops, by)
            keeper.set_up(undo)
            # If nobody is there any more to be told, nobody knows of the device: it is undone.
            report(path=keeper.path, pid=os.getpid(), warning=keeper.warning)
            stops.hold()
        except BaseException as error:
            _log.error("%s", line_of(error))
            if not request.again:
                _undo(undo)  # before the report, so that the starter finds nothing left
            with contextlib.suppress(OSError):
                kind = kind_of(error) if isinstance(error, OSError) else "io"
                report(kind=kind, error=line_of(error).removeprefix(f"{kind}: "))
            if request.again:
                # As if killed: users wait for another one, and would get errors of an image that is closed.
                os._exit(1)
            return 1
        undo.pop_all()
    os.chdir("/")  # not before: a configuration's relative paths are the starter's
    keeper.wait()
    try:
        return keeper.end()
    finally:
        keeper.observer.stop()


def _undo(undo: ExitStack) -> None:
    """Takes back all that can be: what cannot be must not keep the starter from hearing why it was."""
    try:
        undo.close()
    except Exception as error:
        _log.error("undoing it: %s", line_of(error))


def _detach(place: StateDirectory) -> None:
    """Makes this process a daemon: no terminal, no foreign descriptors' streams, its own log."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    handler = RotatingFileHandler(place.log, maxBytes=_LOG_BYTES, backupCount=1)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0:  # best effort: a kernel or user without it stays as it is
        _log.info("prctl %d: %s", _PR_SET_IO_FLUSHER, os.strerror(ctypes.get_errno()))


def _keep(request: Request, place: StateDirectory, report: int) -> int:
    """Keeps by the way that is asked for; by FUSE in a child process, which may be killed."""
    if not request.directory and request.via != "fuse":
        return keep(request, place, report, way(request.via, **request.settings))
    from obd.attach.fuse import FuseWay
    from obd.attach.guard import guard

    def serve(connection: int, report: int, again: bool) -> int:
        by = FuseWay(transient=bool(request.directory), connection=connection, resume=again)
        return keep(replace(request, again=True) if again else request, place, report, by)

    return guard(place, report, serve)


def main() -> None:
    """Reads the request from standard input and keeps it, in a child process that outlives its starter."""
    lock, report = map(int, sys.argv[1:])
    request = Request(**json.loads(sys.stdin.buffer.read()))
    if os.fork():
        os._exit(0)
    for fd in (lock, report):
        os.set_inheritable(fd, False)  # programs that are run for credentials have no business with them
    place = StateDirectory(request.kind, request.key)
    place.lock = lock
    status = 1
    try:
        no_core_dumps()
        _detach(place)
        give_up(KEEPING)
        status = _keep(request, place, report)
    except BaseException:
        _log.exception("the keeper of %s failed", request.config)
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
