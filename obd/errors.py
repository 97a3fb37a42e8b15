"""The error of floor 2: an `OSError` like the core's, one line with kind, file and cause."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# The errno that goes with each kind, as in the core.
ERRNO: Final = {
    "io": errno.EIO,
    "corrupt": errno.EIO,
    "unsupported": errno.ENOTSUP,
    "not-found": errno.ENOENT,
    "limit": errno.E2BIG,
    "invalid": errno.EINVAL,
    "out-of-bounds": errno.EINVAL,
    "exists": errno.EEXIST,
    "read-only": errno.EROFS,
    "denied": errno.EACCES,
    "no-space": errno.ENOSPC,
    "timed-out": errno.ETIMEDOUT,
    "interrupted": errno.EINTR,
    "busy": errno.EBUSY,
}


# A message names what it is about, and quotes no more than a terminal can show.
MAX_LINE_CHARACTERS: Final = 1500


class ObdError(OSError):
    """A failure above the core. `kind` is stable and one of `ERRNO`; `file` is "" where none is concerned.

    `what` is the message alone, `str()` the whole line: kind, file, what.
    """

    def __init__(self, kind: str, what: str, file: str = "") -> None:
        self.line = printable(": ".join(part for part in (kind, file, what) if part))
        super().__init__(ERRNO[kind], self.line)
        self.kind = kind
        self.file = file
        self.what = what

    def __str__(self) -> str:
        return self.line


@contextmanager
def about(path: str) -> Iterator[None]:
    """Has the system's errors say that they are about `path`: those of an open file name none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno and not hasattr(error, "kind"):
            error.filename = path
        raise


def printable(text: str) -> str:
    """`text` as one line, not endless, that does no harm to a log or a terminal, whoever it quotes.

    What stands for bytes of a name that are no UTF-8 stays: it is written as those bytes.
    """
    if len(text) > MAX_LINE_CHARACTERS:
        text = f"{text[:MAX_LINE_CHARACTERS]}…"
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else c.encode("unicode_escape").decode()
        for c in " ".join(text.split("\n"))
    )


def line_of(error: BaseException) -> str:
    """What went wrong in one line: kind, file and what, without Python's `[Errno …]` in front."""
    line = error.strerror if isinstance(error, OSError) and hasattr(error, "kind") else None
    return printable(line or str(error) or type(error).__name__)


def kind_of(error: OSError) -> str:
    """The kind of any `OSError`: its own if it is ours or the core's, else by its errno."""
    kind = getattr(error, "kind", None)
    if isinstance(kind, str):
        return kind
    number = {errno.EPERM: errno.EACCES, errno.EDQUOT: errno.ENOSPC}.get(error.errno or 0, error.errno)
    return next((name for name, value in ERRNO.items() if value == number), "io")
