"""How a command fails: one line on stderr with kind, file, offset and cause, and an exit status."""

from __future__ import annotations

import errno
import os
import sys

# Upstream's status of nearly every failure while running; `tools.options` has those of a wrong command line.
FAILED = 255


class Failure(Exception):
    """The command cannot do what was asked; `str()` is the line for stderr."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


class Stopped(BaseException):
    """SIGTERM or SIGHUP arrived; work is undone and the process then ends by that signal."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def describe(error: BaseException) -> str:
    """One line for `error`: `kind: file: what: cause` as far as they are known."""
    if isinstance(error, OSError):
        if hasattr(error, "kind"):
            # The core's own error carries the whole line already.
            line = error.strerror or str(error)
        else:
            name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
            line = f"{_kind(error.errno)}: {name}{error.strerror or error}"
    else:
        line = str(error) or type(error).__name__
    return " ".join(line.split("\n"))


def errno_and_line(error: BaseException) -> str:
    """Upstream's form of a cause, `<errno>: <text>`, with our line as the text."""
    number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
    return f"{number}: {describe(error)}"


def say(line: str) -> None:
    """Writes a line to stderr. A stderr that is closed or full must not change the outcome."""
    try:
        sys.stderr.write(clean(line) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def clean(text: str) -> str:
    """A text that does to a terminal only what it should: images and registries have words of foreigners.

    What stands for bytes of names that are no UTF-8 stays.
    """
    if text.isprintable():
        return text
    return "".join(
        each
        if each.isprintable() or each in "\n\t" or "\udc80" <= each <= "\udcff"
        else "\N{REPLACEMENT CHARACTER}"
        for each in text
    )


def tell(line: str) -> None:
    """Writes a line to stdout, for what a command has done. It stands even if nobody listens."""
    try:
        # As bytes: names of files come out as they came in, whatever the encoding of the terminal.
        sys.stdout.buffer.write(os.fsencode(line + "\n"))
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        # Else the interpreter tries again when it ends, and then fails.
        sys.stdout = None


def _kind(number: int | None) -> str:
    kinds = {
        errno.ENOENT: "not-found",
        errno.EEXIST: "exists",
        errno.EACCES: "denied",
        errno.EPERM: "denied",
        errno.ENOSPC: "no-space",
        errno.EDQUOT: "no-space",
        errno.EROFS: "read-only",
        errno.ETIMEDOUT: "timed-out",
        errno.EINTR: "interrupted",
        errno.EINVAL: "invalid",
    }
    return kinds.get(number or 0, "io")
