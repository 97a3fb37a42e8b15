"""Where the demo works: a directory, the programs it runs, and the undoing of everything at the end."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from tools.errors import Failure, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType, TracebackType
    from typing import BinaryIO

# How long a program that was asked to end may take before it is killed.
END_TIMEOUT_S = 20.0

# So much of what a failed program said is shown.
SHOWN_LINES = 15

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Workshop:
    """A temporary directory and an undo list. Leaving it, even by an error or a signal, removes all."""

    def __init__(self, parent: str | None, quiet: bool) -> None:
        self.started = time.monotonic()
        self.quiet = quiet
        self._parent = parent
        self._undo = ExitStack()
        # While held, a signal waits: what has just been made is not on the undo list yet, or is being undone.
        self._held = False
        self._waiting: int | None = None

    def __enter__(self) -> Workshop:
        for number in _SIGNALS:
            signal.signal(number, self._signalled)
        with self._hold():
            self.directory = tempfile.mkdtemp(prefix="obd-demo-", dir=self._parent)
            self._undo.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.say(f"working in D={self.directory}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = True
        self.say("removing everything")
        self._undo.close()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._waiting = number
            return
        self._held = True  # a second Ctrl-C must not stop the tidying up
        raise Stopped(number)

    @contextmanager
    def _hold(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._waiting is not None:
            self._signalled(self._waiting, None)

    def path(self, *names: str) -> str:
        """A path below the directory."""
        return os.path.join(self.directory, *names)

    def make(self, *names: str) -> str:
        """Creates a directory below the directory and returns its path."""
        path = self.path(*names)
        os.makedirs(path, exist_ok=True)
        return path

    def undo(self, function: Callable[..., object], *arguments: object) -> None:
        """Has `function` called at the end, in reverse order."""
        self._undo.callback(function, *arguments)

    def say(self, line: str) -> None:
        """One line of the story with the time so far."""
        with suppress(OSError, ValueError):
            print(f"[{time.monotonic() - self.started:6.1f} s] {line}", flush=True)

    def run(self, *words: str, show: bool = True) -> str:
        """Runs a program and returns its standard output; fails if it does."""
        return self.start(*words, show=show)()

    def start(self, *words: str, show: bool = True) -> Callable[[], str]:
        """Starts a program; calling what is returned waits for its end, and then is as `run`."""
        if show and not self.quiet:
            self.say(f"  $ {self._shortened(words)}")
        process = self.spawn(words, subprocess.PIPE)
        return lambda: self._finish(process, words)

    def spawn(self, words: Sequence[str], output: int | BinaryIO) -> subprocess.Popen[bytes]:
        """A program that runs until it ends or everything is undone; both its streams go to `output`."""
        # A session of its own: Ctrl-C reaches this process, which ends its children one by one.
        with self._hold():
            try:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            except OSError as error:
                raise Failure(f"obd demo: cannot run {words[0]}: {error.strerror}") from error
            self._undo.callback(end, process)
        return process

    def _finish(self, process: subprocess.Popen[bytes], words: tuple[str, ...]) -> str:
        try:
            out, err = process.communicate()
        finally:
            end(process)
        if process.returncode != 0:
            said = "\n".join((out + err).decode("utf-8", "replace").splitlines()[-SHOWN_LINES:])
            raise Failure(f"obd demo: {shlex.join(words)} ended with status {process.returncode}:\n{said}")
        return out.decode("utf-8", "replace")

    def _shortened(self, words: tuple[str, ...]) -> str:
        line = shlex.join([os.path.basename(words[0]), *words[1:]])
        return line.replace(self.directory, "$D")


def program(name: str) -> str:
    """The path of one of our own commands: beside the running Python, else on the PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), name)
    return beside if os.access(beside, os.X_OK) else shutil.which(name) or name


def end(process: subprocess.Popen[bytes]) -> None:
    """Asks a program to end, waits, and kills it if it does not."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
