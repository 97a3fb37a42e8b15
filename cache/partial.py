"""The files of a download in a layer's directory: the bytes so far, how far they go, who works on it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import zlib
from typing import Final, Self

COMMIT_NAME: Final = "overlaybd.commit"
PARTIAL_NAME: Final = ".download"
RECORD_NAME: Final = ".download.progress"
LOCK_NAME: Final = ".download.lock"
# What the cache knows of a layer that it keeps under `PARTIAL_NAME`.
MAP_NAME: Final = ".download.map"
# Where a file ends up that bears the name of the layer and is not the layer.
BAD_NAME: Final = "overlaybd.commit.bad"

_MAX_RECORD_BYTES: Final = 1024


class Partial:
    """A layer directory in which nobody else, in this process or another, downloads. Errors are `OSError`."""

    def __init__(self, directory: str, lock_fd: int) -> None:
        self.directory: Final = directory
        self.path: Final = os.path.join(directory, PARTIAL_NAME)
        self.commit_path: Final = os.path.join(directory, COMMIT_NAME)
        self._record_path: Final = os.path.join(directory, RECORD_NAME)
        self._lock_fd = lock_fd
        self._claim_fd = -1

    @classmethod
    def lock(cls, directory: str) -> Self | None:
        """The directory's download, or None if somebody else is at it."""
        path = os.path.join(directory, LOCK_NAME)
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Who ends a download removes its lock file: this may be one that is gone.
                if os.fstat(fd).st_nlink:
                    return cls(directory, fd)
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def release(self) -> None:
        """Lets others have it."""
        fd, self._claim_fd = self._claim_fd, -1
        if fd >= 0:
            os.close(fd)
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # one that stays locks nothing
                os.unlink(os.path.join(self.directory, LOCK_NAME))
            os.close(fd)

    def claim(self, *, shared: bool) -> bool:
        """Keeps the file from others, with `shared` but for those in whose cache it is; false if taken."""
        self._claim_fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        # As the cache locks its files: l_type, l_whence, l_start, l_len, l_pid.
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK if shared else fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        try:
            fcntl.fcntl(self._claim_fd, fcntl.F_OFD_SETLK, lock)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def prepare(self, digest: str, size: int) -> int:
        """Makes the file ready for `size` bytes; returns how many of them are there already."""
        done = self._recorded(digest, size)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # A file that was cut since it was recorded has holes where the bytes were: the digest would tell,
            # but only after all the rest has been fetched.
            if os.fstat(fd).st_size < done:
                done = 0
            if done == 0:
                _remove(self._record_path)
                os.truncate(fd, 0)
            os.truncate(fd, size)
        finally:
            os.close(fd)
        return done

    def record(self, digest: str, size: int, done: int) -> None:
        """Notes that the first `done` bytes are durable."""
        text = f"{digest} {size} {done}"
        line = f"{text} {zlib.crc32(text.encode()):08x}\n".encode()
        fd = os.open(self._record_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # Shorter than before, it would keep the end of the longer line, and fail its checksum.
            os.pwrite(fd, line.rjust(_MAX_RECORD_BYTES // 2), 0)
        finally:
            os.close(fd)

    def _recorded(self, digest: str, size: int) -> int:
        try:
            with open(self._record_path, "rb") as file:
                words = file.read(_MAX_RECORD_BYTES).decode("ascii").split()
            text, total, done = " ".join(words[:3]), int(words[1]), int(words[2])
            if words[3] != f"{zlib.crc32(text.encode()):08x}" or words[0] != digest or total != size:
                return 0
            return done if 0 <= done <= size else 0
        except (OSError, ValueError, IndexError):
            return 0

    def finish(self) -> None:
        """Makes the file, whose bytes are right, the layer."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(self.path, self.commit_path)
        sync_directory(self.directory)
        _remove(self._record_path)
        _remove(os.path.join(self.directory, MAP_NAME))

    @classmethod
    def tidy(cls, directory: str) -> None:
        """Removes what a process left that was killed just after it had put the layer in place."""
        with contextlib.suppress(OSError):  # a directory that others may write to, not we
            partial = cls.lock(directory)
            if partial is None:
                return
            try:
                if os.path.exists(partial.commit_path):
                    _remove(partial._record_path)
                    _remove(os.path.join(directory, MAP_NAME))
            finally:
                partial.release()

    def discard(self) -> None:
        """Removes what is there so far."""
        _remove(self._record_path)
        _remove(self.path)


def sync_directory(path: str) -> None:
    """Makes what happened to the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
