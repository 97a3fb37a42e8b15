"""What a recorded run did to its files, and what of it may be there after a loss of power at any moment.

A file system that promises little: what was synced is there; of what was not each sector is as it was at some
moment since, whatever the others are; the names of a directory change in their order, but are sure only when
the directory is synced. Nothing that was synced is lost by what is done later.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.sweep.world import write_sparse

_PAGE: Final = 4096
_SECTOR: Final = 512
# Where the records of an index file begin, and the first half of one that notes the boot of the system.
_LOG_AT: Final = 4096
_NOTE_OF_BOOT: Final = (1 << 50) - 1 | 1 << 50


@dataclass(frozen=True, slots=True)
class Op:
    """One entry of a log; see `shim.c`."""

    kind: str
    inode: int
    offset: int
    length: int
    path: str
    second: str
    data: bytes


def parse(log: bytes) -> list[Op]:
    """The entries of a log that took effect."""
    ops, at = [], 0
    while at < len(log):
        end = log.index(b"\n", at)
        kind, inode, offset, length, result, path, second, count = log[at:end].decode().split("\t")
        data = log[end + 1 :][: int(count)]
        at = end + 1 + int(count)
        if int(result) >= 0:
            ops.append(Op(kind, int(inode), int(offset), int(length), path, second, data))
    return ops


@dataclass
class File:
    """An inode: its bytes now, those that are sure to be there, and what was done between the two."""

    now: bytearray = field(default_factory=bytearray)
    sure: bytes = b""
    pending: list[Op] = field(default_factory=list)

    def apply(self, op: Op) -> None:
        """Does what an entry says."""
        change(self.now, op)
        self.pending.append(op)

    def sync(self) -> None:
        """Makes durable what was done."""
        self.sure, self.pending = bytes(self.now), []


def change(content: bytearray, op: Op) -> None:
    """Does to bytes what an entry says."""
    if op.kind == "truncate":
        del content[op.length :]
        content.extend(bytes(op.length - len(content)))
    elif op.kind == "emptied":
        content.clear()
    elif op.kind == "punch":
        end = min(op.offset + op.length, len(content))
        content[op.offset : end] = bytes(max(0, end - op.offset))
    elif op.kind in ("write", "aio"):
        content.extend(bytes(max(0, op.offset - len(content))))
        content[op.offset : op.offset + len(op.data)] = op.data


# A directory is a name without a file.
Names = dict[str, File | None]


@dataclass(frozen=True, slots=True)
class State:
    """What may be on the disk after entry `cut`: content by name, None for a directory."""

    cut: int
    how: str
    content: dict[str, bytes | None]


class Disk:
    """Replays a log from a template on."""

    def __init__(self, template: Path) -> None:
        self._names: Names = {}
        for path in sorted(template.rglob("*")):
            name = str(path.relative_to(template))
            self._names[name] = None if path.is_dir() else _durable(path.read_bytes())
        self._sure_names: Names = dict(self._names)
        self._pending: list[Op] = []
        self._inodes: dict[int, File] = {}
        # The files that entries made: numbers are used again.
        self._files: Final[dict[int, File]] = {}

    def learn(self, inodes: dict[int, str]) -> None:
        """Says which inode of the recorded run each file of the template was."""
        for inode, name in inodes.items():
            file = self._names[name]
            assert file is not None
            self._inodes[inode] = file

    def apply(self, op: Op) -> None:
        """Does what an entry says."""
        if op.kind == "create":
            self._inodes[op.inode] = File()
        if op.kind in ("create", "rename", "link", "unlink", "mkdir", "rmdir"):
            _change_names(self._names, op, self._inodes)
            self._pending.append(op)
            if op.kind == "create":
                self._files[id(op)] = self._inodes[op.inode]
        elif op.kind == "sync" and op.inode in self._inodes:
            self._inodes[op.inode].sync()
        elif op.kind == "sync":
            self._sync_directory("" if op.path == "." else op.path)
        elif op.kind in ("write", "aio", "truncate", "punch", "emptied"):
            self._inodes[op.inode].apply(op)

    def _sync_directory(self, directory: str) -> None:
        left = []
        for op in self._pending:
            if directory in _directories(op):
                self._change_sure(self._sure_names, op)
            else:
                left.append(op)
        self._pending = left

    def _change_sure(self, names: Names, op: Op) -> None:
        file = self._files.get(id(op))
        _change_names(names, op, {op.inode: file} if file is not None else {})

    def states(self, cut: int, numbers: random.Random, more: int) -> Iterator[State]:
        """What may be there now: the extremes, and `more` of what lies between."""
        yield State(cut, "all written", self._content(self._names, lambda file: bytes(file.now)))
        yield State(cut, "only what was synced", self._content(self._sure_names, lambda file: file.sure))
        yield State(cut, "names without content", self._content(self._names, lambda file: file.sure))
        yield State(
            cut, "content without names", self._content(self._sure_names, lambda file: bytes(file.now))
        )
        for number in range(more):
            names = dict(self._sure_names)
            stop: dict[str, bool] = {}
            for op in self._pending:
                # In a directory the first that is lost is the end.
                lost = any(stop.get(each, False) for each in _directories(op)) or numbers.random() < 0.2
                for each in _directories(op):
                    stop[each] = stop.get(each, False) or lost
                if not lost:
                    self._change_sure(names, op)
            # One choice for a file under all its names.
            chosen = {id(file): _some(file, numbers) for file in names.values() if file is not None}
            content = {name: None if file is None else chosen[id(file)] for name, file in names.items()}
            yield State(cut, f"some of it, {number}", content)

    @staticmethod
    def _content(names: Names, of: Callable[[File], bytes]) -> dict[str, bytes | None]:
        return {name: None if file is None else of(file) for name, file in names.items()}


def _durable(content: bytes) -> File:
    return File(bytearray(content), content)


def _directories(op: Op) -> set[str]:
    return {os.path.dirname(path) for path in (op.path, op.second) if path}


def _change_names(names: Names, op: Op, inodes: dict[int, File]) -> None:
    if op.kind == "create" and op.inode in inodes:
        names[op.path] = inodes[op.inode]
    elif op.kind == "mkdir":
        names[op.path] = None
    elif op.kind in ("unlink", "rmdir"):
        names.pop(op.path, None)
    elif op.kind == "link" and op.path in names:
        names[op.second] = names[op.path]
    elif op.kind == "rename" and op.path in names:
        names[op.second] = names.pop(op.path)
        for name in [name for name in names if name.startswith(f"{op.path}/")]:
            names[op.second + name[len(op.path) :]] = names.pop(name)


def _some(file: File, numbers: random.Random) -> bytes:
    """A content that a file may have: each sector as it was at some moment since it was synced.

    Lengths and holes come in their order, up to some moment. A page that is new on the disk comes as a whole:
    file systems show none before its bytes are there.
    """
    content = bytearray(file.sure)
    stop_share = numbers.choice((0.05, 0.3, 0.7))
    stopped: set[tuple[int, int]] = set()
    order_stopped = False
    for op in file.pending:
        if op.kind not in ("write", "aio"):
            order_stopped |= numbers.random() < stop_share
            if not order_stopped:
                change(content, op)
            continue
        at, end = op.offset, op.offset + len(op.data)
        while at < end:
            page = at // _PAGE
            is_old = any(file.sure[page * _PAGE : (page + 1) * _PAGE])
            unit = (page, at // _SECTOR if is_old else -1)
            size = _SECTOR if is_old else _PAGE
            stop = min(end, at // size * size + size)
            if numbers.random() < stop_share:
                stopped.add(unit)
            if unit not in stopped:
                content.extend(bytes(max(0, at - len(content))))
                content[at:stop] = op.data[at - op.offset : stop - op.offset]
            at = stop
    return bytes(content)


def materialize(state: State, place: Path) -> None:
    """Puts a state into an empty directory."""
    for name, content in sorted(state.content.items()):
        path = place / name
        # A directory whose own name is lost takes what is in it along.
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        elif path.parent.exists():
            write_sparse(path, _of_another_boot(content) if name.endswith("index") else content)


def _of_another_boot(log: bytes) -> bytes:
    """The log of a writable layer, as if this system had been started anew since."""
    changed = bytearray(log)
    for at in range(_LOG_AT, len(log) - 15, 16):
        where, what = struct.unpack_from("<2Q", log, at)
        if where == _NOTE_OF_BOOT and what >> 55 == 0:
            struct.pack_into("<Q", changed, at + 8, what ^ 1)
    return bytes(changed)
