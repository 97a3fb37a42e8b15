"""Trees of files in comparable form: as they are, as a listing says; and mounting images to see them."""

import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

Tree = dict[str, dict[str, Any]]

needs_loop = pytest.mark.skipif(
    not (os.access("/dev/loop-control", os.R_OK | os.W_OK) and os.geteuid() == 0),
    reason="no loop devices here",
)

needs_erofs = pytest.mark.skipif(
    "erofs" not in Path("/proc/filesystems").read_text(),
    reason="the kernel has no EROFS here: see tests/vm/guest",
)

KINDS = {
    stat.S_IFDIR: "dir",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "chr",
    stat.S_IFBLK: "blk",
    stat.S_IFIFO: "fifo",
}
# What belongs to the file system and not to the layer.
OWN = "lost+found"


def tree(root: Path) -> Tree:
    """Everything below `root`: type, mode, owner, time in ns, content, links, attributes."""
    found: Tree = {}
    inodes: dict[str, int] = {}
    for directory, directories, files in os.walk(root):
        directories.sort()
        for name in [".", *directories, *files] if directory == str(root) else [*directories, *files]:
            path = os.path.join(directory, name)
            shown = os.path.relpath(path, root)
            if shown == OWN:
                continue
            found[shown] = describe(path)
            info = os.lstat(path)
            if not stat.S_ISDIR(info.st_mode):
                inodes[shown] = info.st_ino
                found[shown]["nlink"] = info.st_nlink
    return with_links(found, inodes)


def with_links(found: Tree, files: dict[str, int]) -> Tree:
    """Says of each file which is the first in order that is the same one."""
    first: dict[int, str] = {}
    for path in sorted(files):
        found[path]["same as"] = first.setdefault(files[path], path)
    return found


def describe(path: str) -> dict[str, Any]:
    """What one file is."""
    info = os.lstat(path)
    kind = KINDS[stat.S_IFMT(info.st_mode)]
    row: dict[str, Any] = {
        "type": kind,
        "mode": f"{stat.S_IMODE(info.st_mode):04o}",
        "uid": info.st_uid,
        "gid": info.st_gid,
        "mtime": info.st_mtime_ns,
    }
    if kind == "file":
        with open(path, "rb") as file:
            row["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        row["size"] = info.st_size
    if kind == "link":
        row["target"] = os.readlink(path)
    if kind in ("chr", "blk"):
        row["rdev"] = [os.major(info.st_rdev), os.minor(info.st_rdev)]
    names = sorted(os.listxattr(path, follow_symlinks=False))
    row["xattrs"] = {name: os.getxattr(path, name, follow_symlinks=False).decode("latin1") for name in names}
    return row


def listing(text: str) -> Tree:
    """A golden listing in the form of `tree`."""
    found: Tree = {}
    files: dict[str, int] = {}
    for line in text.splitlines():
        row = json.loads(line)
        path = row.pop("path")
        row.pop("dirsize", None)
        group = row.pop("hardlink_group", None)
        row["mtime"] = row["mtime"] * 10**9
        row.setdefault("xattrs", {})
        if row["type"] == "dir":
            del row["nlink"]
        elif path != OWN:
            files[path] = -len(files) if group is None else group
        if path != OWN:
            found[path] = row
    return with_links(found, files)


@contextmanager
def mounted(image: Path, fstype: str = "ext4") -> Iterator[Path]:
    """The file system of a raw image, mounted read-only beside it."""
    point = image.with_suffix(".mount")
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", fstype, "-o", "loop,ro", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


def assert_clean(image: Path, fstype: str = "ext4") -> None:
    """The file system of a raw image must be in order."""
    check = ["e2fsck", "-fn"] if fstype == "ext4" else [f"fsck.{fstype}"]
    done = subprocess.run([*check, image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_same(found: Tree, wanted: Tree) -> None:
    """Compares, and says what differs file by file."""
    paths = sorted({*found, *wanted})
    pairs = ((path, found.get(path), wanted.get(path)) for path in paths)
    differ = [(path, is_, should) for path, is_, should in pairs if is_ != should]
    assert not differ, f"{len(differ)} files: {differ[:9]}"
