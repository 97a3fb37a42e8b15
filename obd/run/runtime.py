"""An OCI runtime: found, run in the foreground with all signals passed on, and what it leaves removed."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from obd.errors import ObdError
from obd.state import run_directory

KNOWN: Final = ("runc", "crun", "youki")
# Statuses of shells and other tools for a command that cannot be run.
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126

# What a user can send to a command. Those that stop it and let it go on reach the runtime by the terminal.
_PASSED: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGWINCH,
)
_BY_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)
_MAX_SIGNALS: Final = 64
_LAST_BYTES: Final = 64 << 10


class CommandFailed(ObdError):
    """The runtime could not start the command. `status`: 126 or 127 if the command is why, else 255."""

    def __init__(self, kind: str, what: str, status: int) -> None:
        super().__init__(kind, what)
        self.status = status


def find_runtime(name: str) -> str:
    """The path of a runtime; "" is the first of `KNOWN` that is there. Raises `ObdError` "not-found"."""
    for each in (name,) if name else KNOWN:
        if path := shutil.which(each):
            return os.path.abspath(path)
    what = f"{name}: no such OCI runtime" if name else f"no OCI runtime: install one of {', '.join(KNOWN)}"
    raise ObdError("not-found", what)


class Runtime:
    """A runtime, and its state in the run directory."""

    def __init__(self, path: str) -> None:
        self._path: Final = path
        # Runtimes do not understand each other's state.
        self._root: Final = os.path.join(run_directory(), "runtime", os.path.basename(path))

    def run(self, name: str, bundle: str, descriptors: Sequence[int], *, terminal: bool) -> int:
        """Runs a container to its end; the status of its command, 128 + n if signal n ended it.

        The runtime has `descriptors` open for as long as it lives. Raises `CommandFailed`.
        """
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        log = os.path.join(bundle, "log")
        words = [*self._words("--log", log, "--log-format", "json"), "run", "--bundle", bundle, name]
        with _signals() as signals:
            for descriptor in descriptors:
                os.set_inheritable(descriptor, True)
            pid = os.posix_spawn(self._path, words, os.environ, setsigdef=(signal.SIGPIPE, signal.SIGXFSZ))
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            status = _wait(pid, signals, terminal=terminal)
        if status and (why := _error_in(log)):
            raise _failed(why)
        return status

    def delete(self, name: str) -> None:
        """Kills what is left of a container, if anything is."""
        if os.path.isdir(self._root):
            words = self._words("delete", "--force", name)
            subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)

    def _words(self, *words: str) -> list[str]:
        return [self._path, "--root", self._root, *words]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Has this process and those that it starts meanwhile go on, whatever signal asks them to end."""
    with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT), signal.SIG_IGN):
        yield


@contextmanager
def _handled(signals: Iterable[signal.Signals], handler: Any) -> Iterator[None]:
    # What is to be ignored, as under nohup, stays so.
    before = {each: found for each in signals if (found := signal.getsignal(each)) != signal.SIG_IGN}
    for each in before:
        signal.signal(each, handler)
    try:
        yield
    finally:
        for each, found in before.items():
            signal.signal(each, found)


@contextmanager
def _signals() -> Iterator[int]:
    """A descriptor from which the numbers of signals that arrive are read, whichever thread gets them."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        with _handled(_PASSED, lambda _number, _frame: None):
            yield reader
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def _wait(pid: int, signals: int, *, terminal: bool) -> int:
    """The exit status of a process, to which the signals that arrive meanwhile are passed."""
    ended = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(signals, select.POLLIN)
        while ended not in (ready := [descriptor for descriptor, _ in poll.poll()]):
            for number in os.read(signals, _MAX_SIGNALS) if ready else b"":
                if not (number in _BY_TERMINAL and not terminal and _in_foreground()):
                    os.kill(pid, number)  # it was not waited for yet, so the number is its own
    finally:
        os.close(ended)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def _in_foreground() -> bool:
    """Whether what the terminal sends to this process goes to the runtime as well."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def _error_in(log: str) -> str:
    """The last error of a runtime's log, "" if there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _LAST_BYTES, 0))
            lines = file.read(_LAST_BYTES).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
            if entry["level"] in ("error", "fatal"):
                return str(entry["msg"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return ""


def _failed(why: str) -> CommandFailed:
    why = why.removeprefix("runc run failed: ").removeprefix("unable to start container process: ")
    lower = why.lower()
    if "not found in $path" in lower or ("exec" in lower and "no such file or directory" in lower):
        return CommandFailed("not-found", f"no such command in the container: {why}", NOT_FOUND)
    if "exec" in lower and ("permission denied" in lower or "exec format error" in lower):
        return CommandFailed("denied", f"the command cannot be run: {why}", NOT_EXECUTABLE)
    return CommandFailed("io", f"the runtime did not start it: {why}", 255)
