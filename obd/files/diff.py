"""What differs between the files of two images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import obdcore
from obd.errors import ObdError, kind_of
from obd.files.files import Files, Seen, is_directory, join, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TYPE: Final = 0o170000
_FILE: Final = 0o100000
_LINK: Final = 0o120000
# Pairs of files with several names whose comparison is remembered.
_REMEMBERED: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Change:
    """A file that is not the same in both images.

    `kind` is "added", "removed" or "changed"; `what` says of a changed one in what, in this order: "type",
    "mode", "owner", "size", "device", "target", "content", "xattrs", "times".
    """

    path: bytes
    kind: str
    what: tuple[str, ...]
    before: obdcore.FileStat | None
    after: obdcore.FileStat | None


class Comparison:
    """Compares two images. Content is read only where they do not have it from the same place of a layer."""

    def __init__(
        self,
        before: Files,
        after: Files,
        *,
        times: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """`times`: whether a file of which only the time of its last change differs counts as changed."""
        self._before = before
        self._after = after
        self._times = times
        self._progress = progress
        self._same: dict[tuple[int, int], bool] = {}

    def changes(self) -> Iterator[Change]:
        """All changes, by path, each directory before what is in it. Raises `ObdError`."""
        root = b"/"
        before, after = self._before.stat(root), self._after.stat(root)
        seen_before, seen_after = Seen(self._before, before.ino), Seen(self._after, after.ino)
        yield from self._pair(root, before, after)
        left = self._children(root, before.ino, after.ino, 1)
        while left:
            path, old, new, depth = left.pop()
            before_is = None if old is None else self._before.number(path, old)
            after_is = None if new is None else self._after.number(path, new)
            yield from self._pair(path, before_is, after_is)
            old = old if before_is is not None and is_directory(before_is) else None
            new = new if after_is is not None and is_directory(after_is) else None
            if old is not None:
                seen_before.enter(path, old, depth)
            if new is not None:
                seen_after.enter(path, new, depth)
            left += self._children(path, old, new, depth + 1)

    def _children(
        self, path: bytes, old: int | None, new: int | None, depth: int
    ) -> list[tuple[bytes, int | None, int | None, int]]:
        """The entries of a directory in both images, the first by name last."""
        olds = {} if old is None else dict(self._before.entries(path, old))
        news = {} if new is None else dict(self._after.entries(path, new))
        names = sorted({*olds, *news}, reverse=True)
        return [(join(path, name), olds.get(name), news.get(name), depth) for name in names]

    def _pair(
        self, path: bytes, before: obdcore.FileStat | None, after: obdcore.FileStat | None
    ) -> Iterator[Change]:
        if before is None or after is None:
            yield Change(path, "added" if before is None else "removed", (), before, after)
            return
        what = tuple(self._differs(path, before, after))
        if what:
            yield Change(path, "changed", what, before, after)

    def _differs(self, path: bytes, before: obdcore.FileStat, after: obdcore.FileStat) -> Iterator[str]:
        kind = after.mode & _TYPE
        same_kind = before.mode & _TYPE == kind
        if not same_kind:
            yield "type"
        if before.mode & ~_TYPE != after.mode & ~_TYPE:
            yield "mode"
        if (before.uid, before.gid) != (after.uid, after.gid):
            yield "owner"
        if same_kind and kind == _FILE and before.size != after.size:
            yield "size"
        if same_kind and before.device != after.device:
            yield "device"
        if same_kind and kind == _LINK and self._targets_differ(path, before.ino, after.ino):
            yield "target"
        if same_kind and kind == _FILE and self._content_differs(path, before, after):
            yield "content"
        if self._before.xattrs(path, before.ino) != self._after.xattrs(path, after.ino):
            yield "xattrs"
        if self._times and before.mtime_ns != after.mtime_ns:
            yield "times"

    def _targets_differ(self, path: bytes, before: int, after: int) -> bool:
        return self._before.readlink(path, before) != self._after.readlink(path, after)

    def _content_differs(self, path: bytes, before: obdcore.FileStat, after: obdcore.FileStat) -> bool:
        if before.size != after.size:
            return True
        pair = (before.ino, after.ino)
        if pair in self._same:
            return not self._same[pair]
        try:
            place = self._before.native.difference(before.ino, self._after.native, after.ino, self._progress)
        except obdcore.Error as error:
            name = f"{self._before.name} or {self._after.name}:{shown(path)}"
            raise ObdError(kind_of(error), error.what, name) from None
        if max(before.nlink, after.nlink) > 1 and len(self._same) < _REMEMBERED:
            self._same[pair] = place is None
        return place is not None
