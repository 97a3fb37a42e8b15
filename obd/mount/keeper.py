"""The process that keeps one mount: serves its image by FUSE until that is unmounted, then flushes."""

import contextlib
import ctypes
import errno
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any, Final, NoReturn

from obd.credentials.protect import no_core_dumps
from obd.errors import ObdError, line_of
from obd.mount import filesystem, loop
from obd.mount.state import MountState, StateDirectory

_log: Final = logging.getLogger("overlaybd.mount")

# Name of the one file in the FUSE directory.
FILE_NAME: Final = "disk"

# linux/prctl.h: this process is on the path of writing memory back, so it must not wait for that.
_PR_SET_IO_FLUSHER: Final = 57

# Longest message that the keeper hands to its starter.
MAX_REPORT_BYTES: Final = 64 << 10

# How long a loop device that is detached may hold on to its file.
CLOSE_TIMEOUT_S: Final = 10.0

# Log of one mount: small, because it lies in memory (/run).
_LOG_BYTES: Final = 256 << 10


class Request:
    """What is to be mounted: paths are absolute."""

    def __init__(
        self, config: str, service: str | None, directory: str, *, read_only: bool, options: str
    ) -> None:
        self.config = config
        self.service = service
        self.directory = directory
        self.read_only = read_only
        self.options = options


class _Stop(Exception):
    """SIGTERM arrived while the mount was being set up."""


def keep(request: Request, state: StateDirectory, report_fd: int) -> NoReturn:
    """Sets up the mount, reports on `report_fd` (JSON: `error`, or `warning` and `loop`), keeps it, exits.

    Runs in a process forked for it, which holds the lock of `state`. If the set-up fails nothing is left.
    """
    status = 1
    try:
        no_core_dumps()
        _detach(state)
        status = _keep(request, state, report_fd)
    except BaseException:
        _log.exception("the keeper of %s failed", request.directory)
    finally:
        os._exit(status)


def _keep(request: Request, state: StateDirectory, report_fd: int) -> int:
    def report(**message: Any) -> None:
        os.write(report_fd, json.dumps(message).encode()[:MAX_REPORT_BYTES])
        os.close(report_fd)

    with ExitStack() as undo:
        undo.callback(state.remove)
        try:
            observer, device, fuse, path, warning = _set_up(request, state, undo)
            # If nobody is there any more to be told, nobody knows of the mount: it is undone.
            report(loop=path, warning=warning)
        except BaseException as error:
            _log.error("%s", line_of(error))
            undo.close()  # before the report, so that the starter finds nothing left
            with contextlib.suppress(OSError):
                report(error=line_of(error))
            return 1
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.chdir("/")  # not before: a configuration's relative paths are the starter's
        file = os.path.join(state.fuse, FILE_NAME)
        _wait_until_unused(request.directory, path, file, lambda: _listen(observer))
        undo.pop_all()
    try:
        return _end(request, state, device, fuse, path)
    finally:
        observer.stop()


def _listen(observer: Any) -> None:
    """Lets the mount be watched, now that it is there. It goes on if that fails."""
    try:
        observer.listen()
    except Exception as error:
        _log.warning("the mount cannot be watched: %s", line_of(error))


def _set_up(request: Request, state: StateDirectory, undo: ExitStack) -> tuple[Any, Any, Any, str, str]:
    """Opens, serves, attaches and mounts; what has been done so far is in `undo`."""
    import obdcore
    from obd.image import open_device
    from obd.observer import Observer
    from obd.service import Service

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stop("stopped")

    signal.signal(signal.SIGTERM, stop)
    service = Service(request.service)
    observer = undo.enter_context(Observer(service, "obd mount"))
    device = undo.enter_context(open_device(request.config, service))
    if device.read_only and not request.read_only:
        raise ObdError(
            "read-only", "the image has no upper to write to (make one with overlaybd-create)", request.config
        )
    head = device.read(0, min(filesystem.HEAD_BYTES, device.size))
    fuse = obdcore.FuseMount(
        {FILE_NAME: device.native},
        state.fuse,
        on_error=lambda name, error: _log.error("%s: %s", request.config, line_of(error)),
    )
    undo.callback(_stop, fuse)
    file = os.path.join(state.fuse, FILE_NAME)
    attached = loop.attach(file, read_only=request.read_only)
    undo.callback(_wait_until_detached, attached.path, file)
    undo.callback(_unmount, request.directory, attached.number)
    try:
        warning = filesystem.mount(
            attached.path, request.directory, head, read_only=request.read_only, options=request.options
        )
    finally:
        os.close(attached.fd)
    state.write(MountState(request.directory, request.config, os.getpid(), attached.path))
    observer.overview.add(request.directory, device, attached.path)
    return observer, device, fuse, attached.path, warning


def _unmount(directory: str, number: str) -> None:
    """Takes back our mount, if it was made."""
    if (number, directory) in filesystem.mounts():
        filesystem.unmount_lazily(directory)


def _end(request: Request, state: StateDirectory, device: Any, fuse: Any, path: str) -> int:
    """The last steps, each of which must happen whatever the one before said. Returns the exit status."""
    failures = []
    for step in (lambda: _stop(fuse), device.close):
        try:
            step()
        except OSError as error:
            failures.append(line_of(error))
    if failures:
        # What was acknowledged may not be on disk: leave that where `obd umount` finds it.
        _log.error("closing %s: %s", request.config, "; ".join(failures))
        state.write(MountState(request.directory, request.config, os.getpid(), path, "; ".join(failures)))
        return 1
    state.remove()
    return 0


def _stop(fuse: Any) -> None:
    """Unmounts FUSE. The kernel closes the loop device's file a moment after it detached it."""
    deadline = time.monotonic() + CLOSE_TIMEOUT_S
    while True:
        try:
            fuse.stop()
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                fuse.stop(force=True)
                raise
        time.sleep(0.005)


def _wait_until_unused(directory: str, path: str, file: str, begin: Callable[[], None]) -> None:
    """Returns when no mount uses the loop device any more, in this namespace or another.

    `begin` is called as soon as no signal can get lost any more. SIGTERM asks for the mount to end: it is
    unmounted if nothing uses it, else served on.
    """
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    begin()
    with open("/proc/self/mountinfo", "rb") as mountinfo:
        poll = select.poll()
        poll.register(mountinfo, select.POLLERR | select.POLLPRI)
        poll.register(wake_read, select.POLLIN)
        while directory in (point for _, point in filesystem.mounts()) and loop.backing_file(path) == file:
            for fd, _ in poll.poll():
                if fd == wake_read:
                    os.read(wake_read, 64)
                    try:
                        filesystem.unmount(directory)
                    except ObdError as error:
                        _log.warning("asked to end, but %s", error)
    _wait_until_detached(path, file)


def _wait_until_detached(path: str, file: str) -> None:
    """The kernel detaches the loop device by itself after its last user, which it does not announce."""
    pause_s = 0.001
    while loop.backing_file(path) == file:
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.5)


def _detach(state: StateDirectory) -> None:
    """Makes this process a daemon: own session, no terminal, no foreign descriptors' streams, its own log."""
    from logging.handlers import RotatingFileHandler

    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(state.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log, 2)
    for fd in (null, log):
        os.close(fd)
    handler = RotatingFileHandler(state.log, maxBytes=_LOG_BYTES, backupCount=1)
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, handlers=[handler]
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _prctl(_PR_SET_IO_FLUSHER)


def _prctl(option: int) -> None:
    """Best effort: a kernel or a user without the right leaves it as it is."""
    prctl: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(option, 1, 0, 0, 0) != 0:
        _log.info("prctl %d: %s", option, os.strerror(ctypes.get_errno()))


def start(request: Request, state: StateDirectory) -> dict[str, Any]:
    """Forks the keeper and waits for its report; if that is interrupted, the keeper undoes its work.

    Must be called before anything in this process has started a thread. The lock of `state` must be held; the
    keeper takes it over.
    """
    report_read, report_write = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(report_read)
        keep(request, state, report_write)
    os.close(report_write)
    state.release()
    try:
        with open(report_read, "rb") as pipe:
            data = pipe.read(MAX_REPORT_BYTES)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    if not data:
        _, status = os.waitpid(pid, 0)
        raise ObdError(
            "io",
            f"the process that keeps the mount ended ({os.waitstatus_to_exitcode(status)}); see its log",
            state.log,
        )
    message: dict[str, Any] = json.loads(data)
    if "error" in message:
        os.waitpid(pid, 0)
    return message
