"""Copying files out of an image, to a place that they cannot leave.

Everything is made by its name in a directory that is held open; nothing that is there already is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import obdcore
from obd.errors import ObdError
from obd.files.attributes import Keeper
from obd.files.files import Files, Seen, join, shown

# How a directory is opened that has just been found or made: never by way of a link.
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _Open:
    """A directory that is being filled."""

    path: bytes
    fd: int
    info: obdcore.FileStat
    name: bytes
    """How its parent calls it, of which `parent` is the descriptor."""
    parent: int
    left: list[tuple[bytes, int]] = field(default_factory=list)
    """Entries still to be copied, the first one last."""


class Copier:
    """Copies files of one image. Raises `OSError`; what is done by then stays."""

    def __init__(self, files: Files, *, replace: bool = False, note: Callable[[str], None]) -> None:
        """`replace`: a file that is there is replaced, but no directory. `note` is told what was left out."""
        self._files = files
        self._replace = replace
        self._keeper = Keeper(note)
        self._note = note
        # Of files with several names: where the first one went, as names from the top on.
        self._first: dict[int, tuple[bytes, ...]] = {}

    def copy(self, path: bytes, target: str, *, recursive: bool = False) -> None:
        """Copies the file `path` to `target`, or into it if that is a directory.

        With `recursive` a directory with all that is in it; then a symbolic link stays one.
        """
        info = self._files.stat(path, follow=not recursive)
        name = os.path.basename(path.rstrip(b"/"))
        into = os.path.isdir(target)
        if stat.S_ISDIR(info.mode) and not recursive:
            raise ObdError("invalid", "is a directory: give -r", f"{self._files.name}:{shown(path)}")
        directory, own = os.path.split(os.fsencode(target.rstrip("/") or "/"))
        if into and name in (b"", b".", b".."):
            # The root, or a name that says nothing: what is in there goes into the target itself.
            parent, name = os.open(os.path.join(directory, own) or b".", os.O_RDONLY | os.O_DIRECTORY), b"."
        elif into:
            parent = os.open(os.path.join(directory, own) or b".", os.O_RDONLY | os.O_DIRECTORY)
        else:
            parent, name = os.open(directory or b".", os.O_RDONLY | os.O_DIRECTORY), own
        try:
            self._copy(path, info, parent, name)
        finally:
            os.close(parent)

    def _copy(self, path: bytes, info: obdcore.FileStat, parent: int, name: bytes) -> None:
        if not stat.S_ISDIR(info.mode):
            self._file(path, info, parent, name)
            return
        seen = Seen(self._files, info.ino)
        opened = [self._directory(path, info, parent, name)]
        self._first.clear()
        try:
            while opened:
                now = opened[-1]
                if not now.left:
                    self._keeper.keep(self._files, now.path, now.info, now.parent, now.name, now.fd)
                    os.close(opened.pop().fd)
                    continue
                entry, number = now.left.pop()
                below = join(now.path, entry)
                child = self._files.number(below, number)
                if stat.S_ISDIR(child.mode):
                    seen.enter(below, number, len(opened))
                    opened.append(self._directory(below, child, now.fd, entry))
                elif not self._link(child, opened, entry):
                    self._file(below, child, now.fd, entry)
                    if child.nlink > 1:
                        self._first[number] = (*(each.name for each in opened[1:]), entry)
        finally:
            for each in opened:
                os.close(each.fd)

    def _directory(self, path: bytes, info: obdcore.FileStat, parent: int, name: bytes) -> _Open:
        """Makes a directory, or takes the one that is there, to fill it."""
        entries = self._files.entries(path, info.ino)
        if name != b".":
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise ObdError("exists", "is there already and no directory", shown(path)) from None
            raise
        return _Open(path, fd, info, name, parent, entries[::-1])

    def _link(self, info: obdcore.FileStat, opened: list[_Open], name: bytes) -> bool:
        """Gives a file that has been copied already one more name; whether it could."""
        first = self._first.get(info.ino)
        if first is None:
            return False
        fd = os.dup(opened[0].fd)
        try:
            for part in first[:-1]:
                below = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
            if self._replace:
                self._remove(opened[-1].fd, name)
            os.link(first[-1], name, src_dir_fd=fd, dst_dir_fd=opened[-1].fd, follow_symlinks=False)
        except FileExistsError:
            raise ObdError("exists", "is there already: -f replaces it", shown(name)) from None
        except OSError:
            # The file system has no links, or enough of them: then it is copied once more.
            return False
        finally:
            os.close(fd)
        return True

    def _file(self, path: bytes, info: obdcore.FileStat, parent: int, name: bytes) -> None:
        """Copies anything but a directory."""
        if self._replace:
            self._remove(parent, name)
        try:
            kind = stat.S_IFMT(info.mode)
            if stat.S_ISREG(kind):
                self._regular(path, info, parent, name)
                return
            if stat.S_ISLNK(kind):
                os.symlink(self._files.readlink(path, info.ino), name, dir_fd=parent)
            elif not self._node(path, info, parent, name):
                return
            self._keeper.keep(self._files, path, info, parent, name, None)
        except FileExistsError:
            raise ObdError("exists", "is there already: -f replaces it", shown(path)) from None

    def _regular(self, path: bytes, info: obdcore.FileStat, parent: int, name: bytes) -> None:
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            os.ftruncate(fd, info.size)
            for offset, piece in self._files.data(path, info.ino, info.size):
                view = memoryview(piece)
                while view:
                    done = os.pwrite(fd, view, offset)
                    view, offset = view[done:], offset + done
            self._keeper.keep(self._files, path, info, parent, name, fd)
        except BaseException:
            os.unlink(name, dir_fd=parent)
            raise
        finally:
            os.close(fd)

    def _node(self, path: bytes, info: obdcore.FileStat, parent: int, name: bytes) -> bool:
        """Makes a pipe, a socket or a device; whether it could."""
        try:
            os.mknod(name, stat.S_IFMT(info.mode) | 0o600, os.makedev(*info.device), dir_fd=parent)
        except PermissionError:
            self._note(f"{shown(path)}: a device, which only root may make: left out")
            return False
        return True

    @staticmethod
    def _remove(parent: int, name: bytes) -> None:
        with suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=parent)
