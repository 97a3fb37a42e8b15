"""Log files of processes that run for long: upstream's line format, rotated by size, fit for logrotate."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import select
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from obd.config.service import LogConfig

# Files of one log, whatever the configuration says (upstream's bound).
MAX_FILES: Final = 30
# Upstream's numbers: 0 debug to 4 fatal.
LEVELS: Final = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
_NAMES: Final = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO ",
    logging.WARNING: "WARN ",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "FATAL",
}
_MIB: Final = 1 << 20
# Longest wait for who reads standard output, in seconds.
READER_S: Final = 1.0
# How often the time zone of the machine is looked at.
_ZONE_S: Final = 1.0

# What must never be in a log, should a library or a server put it into a message: what follows the name of
# a scheme or of a secret, user names in URLs, and the queries of signed ones.
_SECRETS: Final = (
    (re.compile(r"\b(bearer|basic|identitytoken)[ :=]+[\w.~+/=-]{8,}", re.IGNORECASE), r"\1 ***"),
    (
        re.compile(
            r"([\"']?\b(?:password|passwd|token|access_token|refresh_token|secret|auth)\b[\"']?\s*[:=]\s*)"
            r"(?:\"[^\"]*\"|'[^']*'|[^\s,;&\"'\]}]+)",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
    (re.compile(r"(https?://)[^/\s@]*@", re.IGNORECASE), r"\1***@"),
    (re.compile(r"(https?://[^\s?#\"']+)\?[^\s#\"']+", re.IGNORECASE), r"\1?***"),
)


def without_secrets(text: str) -> str:
    """`text` with `***` in the place of what looks like a secret."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


class Stamp:
    """The beginning of a line: local time, as it is now where the machine is."""

    def __init__(self) -> None:
        self._checked = time.monotonic()

    def __call__(self, at: float, level: str, thread: int) -> str:
        """`at` is in seconds since 1970, `thread` any number of 64 bits."""
        now = time.monotonic()
        if now - self._checked >= _ZONE_S:
            # The C library looks at TZ and /etc/localtime again only when it is told to.
            time.tzset()
            self._checked = now
        micros = round(at * 1e6)
        date = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(micros // 1_000_000))
        return f"{date}.{micros % 1_000_000:06d}|{level}|th={thread & (2**64 - 1):016X}|"


def printable(text: str) -> str:
    """One line that does nothing to a terminal: images and registries have words of foreigners."""
    if text.isprintable():
        return text
    # Escapes of bytes that are no UTF-8 are left to the encoding of the file.
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else ascii(c)[1:-1] for c in text)


class OneLine(logging.Formatter):
    """Has each message be one line; what Python says of an exception keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.formatMessage`."""
        record.message = printable(record.message)
        return super().formatMessage(record)


class LogFile:
    """A file that lines are added to, rotated by size: `log`, `log.1`, `log.2`, … Safe for several threads.

    A file that somebody else renamed or removed is noticed at the next line, and a new one begun.
    """

    def __init__(self, path: str, max_bytes: int, files: int) -> None:
        """`files` counts the active one. Raises `OSError` if the file cannot be opened."""
        self.path: Final = path
        self._max_bytes: Final = max(max_bytes, 1)
        self._files: Final = min(max(files, 1), MAX_FILES)
        self._lock: Final = threading.Lock()
        self._fd = self._open()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self.path, flags, 0o644)

    def write(self, text: str) -> None:
        """Adds whole lines. Raises `OSError` if the disk does not take them."""
        data = text.encode(errors="backslashreplace")
        with self._lock:
            self._follow()
            while data:
                data = data[os.write(self._fd, data) :]
            if os.fstat(self._fd).st_size > self._max_bytes:
                self._rotate()

    def reopen(self) -> None:
        """Goes on in the file that now has the name: for SIGHUP."""
        with self._lock:
            self._replace()

    def close(self) -> None:
        """No line may follow."""
        with self._lock:
            os.close(self._fd)
            self._fd = -1

    def _follow(self) -> None:
        if not self._has_name():
            self._replace()

    def _has_name(self) -> bool:
        """Whether the file that is open is the one that has the name."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _replace(self) -> None:
        fresh = self._open()
        os.close(self._fd)
        self._fd = fresh

    def _rotate(self) -> None:
        # Other processes may write to the file too: one of them rotates it, the others follow.
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            pass  # a file system without locks
        # The lock goes with this descriptor: it holds until the file has another name and we have left it.
        if not self._has_name():
            self._replace()
            return
        number = self._files
        # Also those that a configuration with more files left.
        while number < MAX_FILES and os.path.lexists(f"{self.path}.{number}"):
            number += 1
        for old in range(number - 1, self._files - 2, -1):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}.{old}" if old else self.path)
        for old in range(self._files - 2, -1, -1):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{self.path}.{old}" if old else self.path, f"{self.path}.{old + 1}")
        self._replace()


class StandardOutput:
    """The place of a `LogFile` where the configuration names none.

    A reader that stands still must not hold up what is logged about, which may be a disk: what it does not
    take within `READER_S` is lost, and what comes until it reads again; then it is told of that.
    """

    def __init__(self) -> None:
        self._lost = 0

    def write(self, text: str) -> None:
        """Adds whole lines. Raises `OSError` if nobody reads them any more."""
        wait_s = 0.0 if self._lost else READER_S
        told = f"\n({self._lost} times nobody read what was logged: it is lost)\n" if self._lost else ""
        data = (told + text).encode(errors="backslashreplace")
        while data:
            if not select.select([], [1], [], wait_s)[1]:
                self._lost += 1
                return
            # A pipe that takes anything takes as much without waiting.
            data = data[os.write(1, data[: select.PIPE_BUF]) :]
        self._lost = 0

    def reopen(self) -> None:
        """There is nothing to open."""

    def close(self) -> None:
        """It belongs to the process."""


class LineHandler(logging.Handler):
    """Writes records to a `LogFile` in upstream's format, one line each, without secrets."""

    def __init__(self, file: LogFile | StandardOutput) -> None:
        super().__init__()
        self.file = file
        self._stamp: Final = Stamp()

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        number = getattr(record, "errno", None)
        if isinstance(number, int):
            message += f" errno={number}({os.strerror(number)})"
        level = _NAMES.get(record.levelno, "TEMP ")
        stamp = self._stamp(record.created, level, record.thread or 0)
        line = printable(without_secrets(message))
        return f"{stamp}{record.filename}:{record.lineno}|{record.funcName}:{line}"

    def emit(self, record: logging.LogRecord) -> None:
        """Writes; a disk that does not take the line must not end what was logged about."""
        try:
            self.file.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def move(self, config: LogConfig) -> None:
        """Goes on as `config` says. Raises `OSError` if it cannot; then all stays as it was."""
        file = _place(config)
        with self.lock or contextlib.nullcontext():
            before, self.file = self.file, file
        before.close()

    def close(self) -> None:
        """Gives the file back."""
        self.file.close()
        super().close()


def _place(config: LogConfig) -> LogFile | StandardOutput:
    path, max_bytes = config.path, max(config.size_mib, 1) * _MIB
    return LogFile(path, max_bytes, config.files) if path else StandardOutput()


def start_log(config: LogConfig) -> LineHandler:
    """Sends the log of this process to the file that `config` names, or to standard output.

    Raises `OSError` if it cannot.
    """
    handler = LineHandler(_place(config))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(LEVELS[min(config.level if config.level is not None else 1, len(LEVELS) - 1)])
    return handler
