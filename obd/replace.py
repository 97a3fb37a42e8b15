"""A file that is put in place as a whole, durably."""

from __future__ import annotations

import os
from contextlib import suppress

from obd.errors import about


def replace_file(path: str, content: bytes, mode: int) -> None:
    """Gives the file `path` `content` and the mode `mode`: after a crash it has both or what it had before.

    Its directory must be there. The caller sees to it that nobody else replaces the same file meanwhile.
    Raises `OSError`.
    """
    temporary = f"{path}.new"
    # Of one that was killed. Made anew, so that nobody has it open who may not see what comes.
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with about(path), open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path)


def sync_directory(path: str) -> None:
    """Makes durable what the names beside `path` stand for."""
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with about(os.path.dirname(path) or "."):
            os.fsync(directory)
    finally:
        os.close(directory)
