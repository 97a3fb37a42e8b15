"""Starts the process that keeps a device, and hears from it whether there is one."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from obd.errors import ObdError, about
from obd.state import StateDirectory

# Longest message that the keeper hands to its starter.
MAX_REPORT_BYTES: Final = 64 << 10
# A process that is dying has its locks for a moment still, and other files for longer.
DYING_S: Final = 2.0
_LOOK_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be kept; `kind` and `key` tell the state directory, other paths are absolute.

    `directory`: where it is to be mounted, with `options`; "" for a device alone. `again`: the device is
    there, of a keeper that died. `settings` are those of the way.
    """

    kind: str
    key: str
    config: str
    service: str | None
    via: str
    read_only: bool
    directory: str = ""
    options: str = ""
    why: str = ""
    again: bool = False
    settings: dict[str, int] = field(default_factory=dict)


def start(request: Request, place: StateDirectory) -> dict[str, Any]:
    """Starts a keeper in the background and waits for its report: `path`, `pid` and `warning`.

    The lock of `place` must be held; the keeper takes it over. Raises `ObdError` if there is no device: then
    nothing is left. If the waiting is interrupted, the keeper undoes its work first.
    """
    with about(request.config):
        data = _hear(request, place)
    if not data:
        _wait_for_end(place)
        raise ObdError("io", "the process that keeps the device ended; see its log", place.log)
    report: dict[str, Any] = json.loads(data)
    if "error" in report:
        raise ObdError(report["kind"], report["error"], request.directory)
    return report


def _hear(request: Request, place: StateDirectory) -> bytes:
    """Starts the keeper and gives its report; b"" if it ended without one."""
    report_read, report_write = os.pipe2(os.O_CLOEXEC)
    with open(report_read, "rb") as pipe:
        try:
            process = _spawn(place, report_write)
        finally:
            os.close(report_write)
            lock, place.lock = place.lock, -1
            os.close(lock)
        try:
            process.communicate(json.dumps(asdict(request)).encode())  # it goes on in a child of its own
            data = pipe.read(MAX_REPORT_BYTES)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            pipe.read(MAX_REPORT_BYTES)  # ends when the last of it has
            raise
    return data


def _wait_for_end(place: StateDirectory) -> None:
    """Returns when a keeper that has died holds no lock any more, by which it is taken for one that lives."""
    deadline = time.monotonic() + DYING_S
    while (acquired := place.acquire_existing()) is False and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    if acquired:
        place.release()


def _spawn(place: StateDirectory, report: int) -> subprocess.Popen[bytes]:
    """A new interpreter, since this process may have threads, of which a fork would keep the locks alone."""
    with open(place.log, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "obd.attach.keeper", str(place.lock), str(report)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=(place.lock, report),
            start_new_session=True,
        )


@contextlib.contextmanager
def until_ended(place: StateDirectory) -> Iterator[None]:
    """Has who takes away what `place` is about return when the process that kept it has ended.

    Its state goes first and what it has open last: the file system of its cache could not be unmounted yet.
    """
    fd, known = -1, place.read()
    if known is not None and known.pid:
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(known.pid)
    try:
        # If it is dead, its number may be another's by now.
        keeps = place.acquire_existing() is False
        place.release()
        yield
        if keeps and fd >= 0:
            poll = select.poll()  # select() knows no descriptors beyond 1023
            poll.register(fd, select.POLLIN)
            poll.poll(DYING_S * 1000)
    finally:
        if fd >= 0:
            os.close(fd)
