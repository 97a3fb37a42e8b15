"""A file that is whole under its name or not there at all, and what is left of those that never were."""

from __future__ import annotations

import contextlib
import fcntl
import os
from types import TracebackType
from typing import Final, Self

from obd.errors import ObdError, kind_of

_PREFIX: Final = ".obd-"
_SUFFIX: Final = ".tmp"
_ATTEMPTS: Final = 100


class Temporary:
    """A new file in `directory`, open as `fd`, until `publish` gives it its name; else it goes away.

    Its writer holds a lock on it, so that `clear` tells the files of those who died. Raises `ObdError`.
    """

    def __init__(self, directory: str) -> None:
        self.path, self.fd = _create(directory)
        self._is_open = True

    def publish(self, name: str, *, replace: bool) -> None:
        """Makes the file durable and gives it its name; with `replace` in place of one that has it.

        Else raises `ObdError` "exists". The directory of the name is to be synced by whoever cares.
        """
        try:
            os.fsync(self.fd)
            if replace:
                os.rename(self.path, name)
            else:
                os.link(self.path, name)
                os.unlink(self.path)
        except FileExistsError:
            raise ObdError("exists", "is there already and is not overwritten", name) from None
        except OSError as error:
            raise ObdError(kind_of(error), error.strerror or "cannot be written", name) from None
        self.path = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Removes the file unless it has its name."""
        if self.path:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            self.path = ""
        if self._is_open:
            self._is_open = False
            os.close(self.fd)


def _create(directory: str) -> tuple[str, int]:
    """A new file that is locked; another one if `clear` took it for one of the dead before it was."""
    for _ in range(_ATTEMPTS):
        path = os.path.join(directory, f"{_PREFIX}{os.urandom(8).hex()}{_SUFFIX}")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ObdError(kind_of(error), f"cannot create a file: {error.strerror}", directory) from None
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                return path, fd
        os.close(fd)
    raise ObdError("busy", "others keep removing new files", directory)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Writes all of `data` there. Raises `OSError`."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def is_temporary(name: str) -> bool:
    """Whether a file of that name is one that is not whole."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def clear(directory: str) -> None:
    """Removes the temporary files of those who died."""
    for name in os.listdir(directory):
        if not is_temporary(name):
            continue
        path = os.path.join(directory, name)
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(fd)


def sync_directory(path: str) -> None:
    """Makes the names in a directory durable, where the file system can."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)
