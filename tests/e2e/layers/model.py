"""What layers mean, as a plain tree in memory: the rules of the OCI image specification and nothing else."""

import hashlib
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.layers import archive
from tests.e2e.layers.archive import NS, Member
from tests.e2e.trees import Tree

KINDS = {
    archive.FILE: "file",
    archive.SYMLINK: "link",
    archive.CHAR: "chr",
    archive.BLOCK_DEVICE: "blk",
    archive.DIR: "dir",
    archive.FIFO: "fifo",
}
# The first and the last second that ext4 knows.
FIRST, LAST = -(1 << 31), (1 << 31) - 1 + 3 * (1 << 32)
OPAQUE = b".wh..wh..opq"


@dataclass
class Node:
    """A file; several names may have the same one. `below` is for directories."""

    row: dict[str, Any]
    below: dict[bytes, "Node"] = field(default_factory=dict)

    @property
    def is_dir(self) -> bool:
        return bool(self.row["type"] == "dir")


def directory(mode: int = 0o755) -> Node:
    """One that nobody has described."""
    return Node({"type": "dir", "mode": f"{mode:04o}", "uid": 0, "gid": 0, "mtime": 0, "xattrs": {}})


class Refused(Exception):
    """The layer cannot be applied."""


class Model:
    """A tree to which layers are applied."""

    def __init__(self) -> None:
        self.root = directory()
        self._unpacked: set[tuple[int, bytes]] = set()

    @classmethod
    def after(cls, before: "Model", members: list[Member]) -> "Model | None":
        """A new one with one more layer than `before`; None if that layer cannot be applied."""
        model = deepcopy(before)
        try:
            model.apply(members)
        except Refused:
            return None
        return model

    def apply(self, members: list[Member]) -> None:
        """Applies a layer; raises Refused where it cannot be."""
        self._unpacked = set()
        for member in members:
            self._take(member)

    def _take(self, member: Member) -> None:
        parts = clean(member.name)
        if not parts:
            describe(self.root, member)
            return
        name = parts[-1]
        hides = name.startswith(b".wh.")
        try:
            parent = self._walk(parts[:-1], make=True, hides=hides)
        except Refused:
            if hides:
                return
            raise
        if name == OPAQUE:
            for hidden in list(parent.below):
                self._hide(parent, hidden)
        elif name.startswith(b".wh."):
            self._hide(parent, name.removeprefix(b".wh."))
        else:
            self._unpack(parent, name, member)

    def _unpack(self, parent: Node, name: bytes, member: Member) -> None:
        there = parent.below.get(name)
        self._unpacked.add((id(parent), name))
        if member.kind == archive.DIR and there and there.is_dir:
            describe(there, member)
        elif member.kind == archive.LINK:
            node = self.find(member.link)
            if node is None or node.is_dir:
                raise Refused(member)
            parent.below[name] = node
            describe(node, member, keep_xattrs=True)
        else:
            row: dict[str, Any] = {"type": KINDS[member.kind], "xattrs": {}}
            if member.kind == archive.FILE:
                content = member.whole
                row |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            elif member.kind == archive.SYMLINK:
                row["target"] = shown(member.link)
            elif member.kind in (archive.CHAR, archive.BLOCK_DEVICE):
                row["rdev"] = list(member.device)
            parent.below[name] = Node(row)
            describe(parent.below[name], member)

    def _hide(self, parent: Node, name: bytes) -> bool:
        """Removes what lower layers have there; whether nothing is left."""
        node = parent.below.get(name)
        if node is None:
            return True
        left = [hidden for hidden in list(node.below) if not self._hide(node, hidden)]
        if left or (id(parent), name) in self._unpacked:
            return False
        del parent.below[name]
        return True

    def find(self, path: bytes) -> Node | None:
        """What has this name, which is followed to its directory, not to its end."""
        parts = clean(path)
        if not parts:
            return self.root
        try:
            return self._walk(parts[:-1], make=False).below.get(parts[-1])
        except Refused:
            return None

    def _walk(self, parts: list[bytes], make: bool, hides: bool = False) -> Node:
        above, left = [self.root], parts[::-1]
        for _ in range(10_000):
            if not left:
                return above[-1]
            part = left.pop()
            if part == b"..":
                above = above[:-1] or above
                continue
            node = above[-1].below.get(part)
            if node is None and make:
                node = above[-1].below[part] = directory()
            if node is None or node.row["type"] not in ("dir", "link"):
                raise Refused(part)
            # A whiteout is of what was below, not of where the layer itself leads.
            if hides and not node.is_dir and (id(above[-1]), part) in self._unpacked:
                raise Refused(part)
            if node.is_dir:
                above.append(node)
                continue
            target = node.row["target"].encode("utf-8", "surrogateescape")
            above = above[:1] if target.startswith(b"/") else above
            left += [part for part in target.split(b"/")[::-1] if part not in (b"", b".")]
        raise Refused("circles")

    def tree(self) -> Tree:
        """All of it, in the form of `trees.tree`."""
        found: Tree = {".": dict(self.root.row)}
        names: dict[int, list[str]] = {}
        left = [("", self.root)]
        while left:
            above, node = left.pop()
            for name, child in node.below.items():
                path = above + shown(name)
                found[path] = dict(child.row)
                if child.is_dir:
                    left.append((path + "/", child))
                else:
                    names.setdefault(id(child), []).append(path)
        for paths in names.values():
            for path in paths:
                found[path] |= {"nlink": len(paths), "same as": min(paths)}
        return found


def describe(node: Node, member: Member, keep_xattrs: bool = False) -> None:
    """Gives a file what its member says of it."""
    seconds, ns = divmod(member.mtime, NS)
    if not FIRST <= seconds <= LAST:
        seconds, ns = min(max(seconds, FIRST), LAST), 0
    if member.dialect != "pax":
        ns = 0
    mode = 0o777 if node.row["type"] == "link" else member.mode & 0o7777
    node.row |= {"mode": f"{mode:04o}", "uid": member.uid, "gid": member.gid, "mtime": seconds * NS + ns}
    xattrs = {name: value.decode("latin1") for name, value in member.xattrs.items()}
    node.row["xattrs"] = (node.row["xattrs"] | xattrs) if keep_xattrs else xattrs


def clean(path: bytes) -> list[bytes]:
    """The parts of a path; none of them leads out of the root."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            parts = parts[:-1]
        elif part not in (b"", b"."):
            parts.append(part)
    return parts


def shown(name: bytes) -> str:
    """A name as Python's file functions give it."""
    return name.decode("utf-8", "surrogateescape")
