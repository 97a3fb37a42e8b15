"""Where a snapshot's files lie: the directories are those of upstream's snapshotter."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from obd.errors import ObdError
from obd.mount import filesystem

# The records of upstream's snapshotter, whose usual root is ours too.
_UPSTREAMS: Final = "metadata.db"
# A snapshot is made and unmade under such names, in one step each: what has one is rubbish after a crash.
_NEW: Final = "new-"
_OLD: Final = "old-"


class Layout:
    """The tree below `root`. Raises `ObdError` if snapshots of another program lie there."""

    def __init__(self, root: str) -> None:
        if os.path.exists(os.path.join(root, _UPSTREAMS)):
            what = "snapshots of upstream's snapshotter: move the root away, or use another one"
            raise ObdError("unsupported", f"{_UPSTREAMS} is there, so these are {what}", root)
        self.root: Final = root
        self.snapshots: Final = os.path.join(root, "snapshots")
        self.database: Final = os.path.join(root, "snapshots.db")
        os.makedirs(self.snapshots, mode=0o700, exist_ok=True)

    def directory(self, number: int) -> str:
        """All that belongs to the snapshot of an id."""
        return os.path.join(self.snapshots, str(number))

    def fs(self, number: int) -> str:
        """What a layer was unpacked to, or the upper directory of an overlay."""
        return os.path.join(self.directory(number), "fs")

    def work(self, number: int) -> str:
        """The work directory of an overlay."""
        return os.path.join(self.directory(number), "work")

    def block(self, number: int) -> str:
        """What makes a device of it."""
        return os.path.join(self.directory(number), "block")

    def mount_point(self, number: int) -> str:
        """Where its device is mounted."""
        return os.path.join(self.block(number), "mountpoint")

    def config(self, number: int) -> str:
        """The configuration of its device."""
        return os.path.join(self.block(number), "config.v1.json")

    def result(self, number: int) -> str:
        """What came of opening its device."""
        return os.path.join(self.block(number), "init-debug.log")

    def mark(self, number: int) -> str:
        """The file that names its device."""
        return os.path.join(self.block(number), "backstore_mark")

    def lost(self, number: int) -> str:
        """The same once something of what was written to it was lost."""
        return os.path.join(self.block(number), "lost")

    def wish(self, number: int) -> str:
        """The file that marks an unpacked image as used, and so to be converted."""
        return os.path.join(self.block(number), "convert")

    def converted(self, number: int) -> str:
        """The layer that was made of what was unpacked."""
        return os.path.join(self.block(number), "converted.commit")

    def since(self, number: int) -> str:
        """The file that says since which snapshot the device of converted layers is used."""
        return os.path.join(self.block(number), "converted_at")

    def upper(self, number: int) -> tuple[str, str]:
        """Data and index of its writable layer."""
        block = self.block(number)
        return os.path.join(block, "writable_data"), os.path.join(block, "writable_index")

    def make(self, number: int, *, active: bool, owner_of: int | None) -> None:
        """Makes the directories, all or none. The owner of `fs` is that of the snapshot `owner_of`."""
        made = os.path.join(self.snapshots, f"{_NEW}{number}")
        shutil.rmtree(made, ignore_errors=True)
        for name, mode in (("", 0o700), ("fs", 0o755), ("block", 0o711), ("block/mountpoint", 0o711)):
            _mkdir(os.path.join(made, name), mode)
        if active:
            _mkdir(os.path.join(made, "work"), 0o711)
        if owner_of is not None:
            with suppress(FileNotFoundError):
                found = os.stat(self.fs(owner_of))
                os.chown(os.path.join(made, "fs"), found.st_uid, found.st_gid)
        with open(os.path.join(made, "block", "init-debug.log"), "xb"):
            pass
        # What was never committed may be there still, as nobody's.
        self.retire(number)
        os.rename(made, self.directory(number))

    def retire(self, number: int) -> str:
        """Takes a directory out of sight, for `rubbish` to find; its new name, "" if there was none.

        Raises `OSError` while a file system is mounted inside: it would go along, where nobody looks for it.
        """
        here = self.directory(number)
        if not os.path.exists(here):
            return ""
        for _, point in filesystem.mounts():
            if point.startswith(f"{here}/"):
                raise OSError(errno.EBUSY, "a file system is mounted there", point)
        old = os.path.join(self.snapshots, f"{_OLD}{number}-{os.urandom(4).hex()}")
        os.rename(here, old)
        return old

    def numbers(self) -> list[int]:
        """The ids that have directories."""
        return sorted(int(name) for name in os.listdir(self.snapshots) if name.isdecimal())

    def retire_unfinished(self) -> None:
        """Makes rubbish of directories that `make` did not finish. Nobody may be at work in it meanwhile."""
        for name in os.listdir(self.snapshots):
            if name.startswith(_NEW):
                old = f"{_OLD}{name}-{os.urandom(4).hex()}"
                os.rename(os.path.join(self.snapshots, name), os.path.join(self.snapshots, old))

    def rubbish(self) -> Iterator[str]:
        """Directories that are nobody's."""
        for name in os.listdir(self.snapshots):
            if name.startswith(_OLD):
                yield os.path.join(self.snapshots, name)


def remove_tree(path: str) -> None:
    """Removes a directory and all in it, but follows no mount: `OSError` if there is one."""
    device = os.lstat(path).st_dev
    for directory, names, _ in os.walk(path):
        for name in names:
            if os.lstat(os.path.join(directory, name)).st_dev != device:
                raise OSError(errno.EBUSY, "a file system is mounted there", os.path.join(directory, name))
    shutil.rmtree(path, onerror=_raise_whole)


def _raise_whole(_: object, path: str, failure: tuple[object, BaseException, object]) -> None:
    """Raises what a removal met, with the whole path: `rmtree` itself gives a name alone."""
    error = failure[1]
    if isinstance(error, OSError):
        error.filename = path
    raise error


def _mkdir(path: str, mode: int) -> None:
    os.mkdir(path)
    os.chmod(path, mode)  # whatever the umask
