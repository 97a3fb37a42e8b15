"""Locks of files: who holds one is alive, since a lock ends with the processes that have it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from obd.errors import about


def open_lock(path: str) -> int:
    """The descriptor of a file to be locked, made if it is not there."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int, path: str, *, shared: bool = False) -> bool:
    """Takes the lock of an open file; `path` is what errors name. False if others hold it."""
    try:
        with about(path):
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Waits for the lock of a file, and holds it meanwhile."""
    descriptor = open_lock(path)
    try:
        with about(path):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
