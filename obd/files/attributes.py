"""What a copied file keeps besides its content: owner, permissions, extended attributes, times."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from obd.files.files import shown

if TYPE_CHECKING:
    import obdcore
    from obd.files.files import Files


class Keeper:
    """Gives copies what their originals have, as far as this process may."""

    def __init__(self, note: Callable[[str], None]) -> None:
        """`note` is told, once for each kind of thing, what could not be kept."""
        self._note = note
        self._noted: set[str] = set()
        self._root = os.geteuid() == 0

    def keep(
        self,
        files: Files,
        path: bytes,
        info: obdcore.FileStat,
        parent: int,
        name: bytes,
        fd: int | None,
    ) -> None:
        """For the file `name` of the directory `parent`; `fd` if it is open, as files and directories are."""
        own = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent) if fd is None else fd
        try:
            self._keep(files, path, info, own)
        finally:
            if fd is None:
                os.close(own)

    def _keep(self, files: Files, path: bytes, info: obdcore.FileStat, fd: int) -> None:
        # The thing that is open, even if it is a symbolic link; no name is looked up again.
        place = f"/proc/self/fd/{fd}"
        permissions = stat.S_IMODE(info.mode)
        if self._root:
            self._try(path, "the owner", lambda: os.chown(place, info.uid, info.gid))
        else:
            # It has another owner here, and nobody shall become that one by running it.
            permissions &= ~(stat.S_ISUID | stat.S_ISGID)
        if not stat.S_ISLNK(info.mode):
            self._try(path, "permissions", lambda: os.chmod(place, permissions))
        # After the owner, whose change takes capabilities away; lists go before what else they would change.
        for name, value in sorted(files.xattrs(path, info.ino).items()):
            if self._root or name.startswith((b"user.", b"system.")):
                what = f"the extended attribute {shown(name)}"
                self._try(path, what, partial(os.setxattr, place, name, value))
            else:
                self._say(path, f"extended attributes {shown(name.partition(b'.')[0])}.*, which are root's")
        self._try(path, "times", lambda: os.utime(place, ns=(info.atime_ns, info.mtime_ns)))

    def _try(self, path: bytes, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except (OSError, OverflowError) as error:
            self._say(path, f"{what} ({getattr(error, 'strerror', None) or error})")

    def _say(self, path: bytes, what: str) -> None:
        if what not in self._noted:
            self._noted.add(what)
            self._note(f"{shown(path)}: not kept, here or elsewhere: {what}")
