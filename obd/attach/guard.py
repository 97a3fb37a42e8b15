"""The process above a FUSE server: if that dies another one takes its place, and users only wait.

It holds the connection to the kernel, which therefore lasts; the kernel asks the next server again for what
the dead one had taken and not answered (Linux 6.9). It has no threads and loads nothing: each server is a
fork of it.
"""

import glob
import json
import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from obd.attach import loop
from obd.attach.fuse import files_of
from obd.attach.process import MAX_REPORT_BYTES
from obd.attach.ways import certainly
from obd.errors import line_of
from obd.mount.filesystem import cut_off
from obd.state import State, StateDirectory

_log: Final = logging.getLogger("overlaybd.keeper")

# A server that cannot be started (its registry is away, say) is tried again; after that users get errors.
PATIENCE_S: Final = 300.0
MAX_PAUSE_S: Final = 10.0
# How often it looks whether a server that was killed cannot die, and after how many looks in a row that is
# certain: one that waits for a slow disk can, when the disk has answered.
LOOK_S: Final = 1.0
LOOKS: Final = 10
# Servers that die so often within so long do so of a request: it fails with the device.
DEATHS: Final = 10
DEATHS_S: Final = 60.0

# Serves by a connection (-1: none) until the device is taken away; the exit status. The others: where to
# report, as `keeper.keep` does; and whether a server died, whose place is to be taken.
Serve = Callable[[int, int, bool], int]


def guard(place: StateDirectory, report: int, serve: Serve) -> int:
    """Has a child process serve the device of `place`, and others after it; the exit status of the last."""
    try:
        connection = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return serve(-1, report, False)  # which says why
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return _Guard(place, connection, serve).run(report)


class _Guard:
    def __init__(self, place: StateDirectory, connection: int, serve: Serve) -> None:
        self._place: Final = place
        self._connection: Final = connection
        self._serve: Final = serve
        self._child = 0
        self._deaths: Final[deque[float]] = deque(maxlen=DEATHS)
        self._looks = 0

    def run(self, report: int) -> int:
        """Serves to the end."""
        said = self._start(report, again=False)
        try:
            os.write(report, said)
        except OSError:
            self._ask_to_end()  # nobody knows of the device
        os.close(report)
        known = self._known(None)
        while True:
            self._wait()
            known = self._known(known)
            if not _is_good(said) or known is None or not self._is_there():
                return self._reap()
            # In this order: while it is known by its number, that is no other process's.
            self._name(os.getpid(), known)
            status = self._reap()
            _log.error("the process that served %s has died (%s)", known.path, _in_words(status))
            if self._is_hopeless(known.path) or not self._restart(known):
                return 1

    def _known(self, before: State | None) -> State | None:
        """The facts of the device: if they cannot be seen, those of before."""
        try:
            return self._place.read()
        except OSError as error:
            _log.warning("%s", line_of(error))
            return before

    def _name(self, pid: int, known: State) -> None:
        """Notes which process is to be asked to end. If the disk is full, say, `_wait` tries again."""
        try:
            self._place.write(replace(known, pid=pid))
        except OSError as error:
            _log.warning("%s", line_of(error))

    def _is_hopeless(self, path: str) -> bool:
        """Counts a death; whether there were too many."""
        self._deaths.append(time.monotonic())
        if len(self._deaths) < DEATHS or self._deaths[-1] - self._deaths[0] > DEATHS_S:
            return False
        _log.error("so did %d before it: %s is given up", DEATHS - 1, path)
        return True

    def _restart(self, known: State) -> bool:
        """Has another server take over. False if that is not to be."""
        path = known.path
        deadline, pause_s = time.monotonic() + PATIENCE_S, 0.1
        while self._is_there():
            said = b""
            try:
                said = self._start(-1, again=True)
            except OSError as error:  # no process or descriptor is to be had just now
                what = line_of(error)
            else:
                if _is_good(said):
                    _log.warning("%s is served again", path)
                    return True
                known = self._known(known) or known
                if known.pid == self._child:  # it had come so far
                    self._name(os.getpid(), known)
                status = self._reap()
                if not said and self._is_hopeless(path):
                    return False
                what = json.loads(said)["error"] if said else _in_words(status)
            if time.monotonic() > deadline or b'"unsupported"' in said:
                _log.error("%s cannot be served again, and is given up: %s", path, what)
                return False
            _log.warning("%s cannot be served again yet: %s", path, what)
            if signal.sigtimedwait({signal.SIGTERM}, pause_s) is not None and known.read_only:
                return False  # whoever asks has seen that nobody uses it
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
        return False

    def _start(self, report: int, *, again: bool) -> bytes:
        """Starts a server and waits until it serves; its report, "" if it died before."""
        read, write = os.pipe2(os.O_CLOEXEC)
        _reopen_log()
        try:
            child = os.fork()
        except OSError:
            os.close(read)
            os.close(write)
            raise
        self._child = child
        if not child:
            status = 1
            try:
                os.close(read)
                if report >= 0:
                    os.close(report)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGCHLD})
                status = self._serve(self._connection, write, again)
            except BaseException:
                _log.exception("the server of %s failed", self._place.key)
            finally:
                os._exit(status)
        os.close(write)
        with open(read, "rb") as pipe:
            while not select.select([pipe], [], [], LOOK_S)[0]:
                self._free()
            return pipe.read(MAX_REPORT_BYTES)

    def _wait(self) -> None:
        """Returns when the server has ended; who asks the guard to end, asks that."""
        while os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            found = signal.sigtimedwait({signal.SIGTERM, signal.SIGCHLD}, LOOK_S)
            if found is None:
                self._free()
                known = self._known(None)
                if known is not None and known.pid != self._child:
                    self._name(self._child, known)
            elif found.si_signo == signal.SIGTERM:
                self._ask_to_end()

    def _free(self) -> None:
        """Lets a server die that was killed, but waits in the kernel for what it would have to answer itself.

        For as long as it does its loop device, and maybe all of them, are locked. Its users get errors.
        """
        self._looks = self._looks + 1 if _cannot_die(f"/proc/{self._child}") else 0
        if self._looks >= LOOKS:
            self._looks = 0
            _log.error("process %d was killed while it waited for itself: it is cut off", self._child)
            for file in files_of(self._place):
                cut_off(os.path.dirname(file))

    def _ask_to_end(self) -> None:
        os.kill(self._child, signal.SIGTERM)  # not reaped: the number is its own

    def _reap(self) -> int:
        _, status = os.waitpid(self._child, 0)
        return os.waitstatus_to_exitcode(status)

    def _is_there(self) -> bool:
        """Whether there is something to serve: a device, and a mount behind it."""
        poll = select.poll()
        poll.register(self._connection, 0)
        if poll.poll(0):
            return False
        gone = certainly(lambda: not any(map(loop.find, files_of(self._place))))
        return not gone  # if that cannot be seen it is there


def _is_good(said: bytes) -> bool:
    return bool(said) and "error" not in json.loads(said)


def _cannot_die(process: str) -> bool:
    """Whether a thread of the process, `process` in /proc, waits in the kernel though it was killed."""
    state, killed = _look_at(f"{process}/status")
    if state == "Z":  # the first thread has ended, and waits for the others
        return ("D", True) in map(_look_at, glob.glob(f"{process}/task/*/status"))
    return (state, killed) == ("D", True)


def _look_at(status: str) -> tuple[str, bool]:
    """The state of a thread, and whether it was killed; "" if it is gone."""
    with suppress(OSError), open(status) as file:
        found = dict(line.split(":", 1) for line in file if line.startswith(("State:", "SigPnd:")))
        return found["State"].split()[0], bool(int(found["SigPnd"], 16) & 1 << signal.SIGKILL - 1)
    return "", False


def _in_words(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


def _reopen_log() -> None:
    """Another process may have begun a new file."""
    for handler in logging.getLogger().handlers:
        handler.close()
