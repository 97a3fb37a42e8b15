"""Mounting and unmounting file systems: by mount(8) and umount(8), with what each kind needs."""

import os
import re
import subprocess
from collections.abc import Iterator
from typing import Final

from obd.errors import ObdError, about

# (kind, offset, magic) of the file systems that need special options.
_MAGICS: Final = (
    ("ext4", 1024 + 56, b"\x53\xef"),  # ext2 and ext3 as well: the driver is the same
    ("xfs", 0, b"XFSB"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
)
# Bytes at the start of a device that `kind_of_filesystem` looks at.
HEAD_BYTES: Final = 4096

_MNT_FORCE: Final = 1

# An image is a stranger's: its files shall give nobody this machine's devices, or another user's rights.
SAFE: Final = ("nodev", "nosuid")

# Lets a read-only mount do without the journal's replay, which would need to write.
_NO_REPLAY: Final = {"ext4": "noload", "xfs": "norecovery"}


def kind_of_filesystem(head: bytes) -> str:
    """The file system whose first bytes are `head`; "" if it is none of those with special needs."""
    return next((kind for kind, at, magic in _MAGICS if head[at : at + len(magic)] == magic), "")


def mount(device: str, directory: str, head: bytes, *, read_only: bool, options: str = "") -> str:
    """Mounts the block device `device`, which starts with `head`, at `directory`.

    Its devices and set-user-ID bits count for nothing, unless `options` say `dev` or `suid`.

    A read-only mount of a file system that was not unmounted cleanly does without its journal; then a warning
    is returned, else "". Raises `ObdError` with what mount(8) said.
    """
    kind = kind_of_filesystem(head)
    # Two images made from one base carry the same XFS identity; that must not keep the second from mounting.
    words = ["ro" if read_only else "rw", *SAFE, *(["nouuid"] if kind == "xfs" else [])]
    words += filter(None, [options])
    failure = _run("mount", ["-t", kind or "auto", "-o", ",".join(words), "--", device, directory])
    if failure is None:
        return ""
    if read_only and kind in _NO_REPLAY:
        words.append(_NO_REPLAY[kind])
        if _run("mount", ["-t", kind, "-o", ",".join(words), "--", device, directory]) is None:
            return f"the {kind} journal cannot be replayed read-only: what was written last may be missing"
    raise ObdError("io", f"cannot mount {device}: {failure}", directory)


def unmount(directory: str) -> str:
    """Unmounts what is at `directory`. Raises `ObdError`, of kind "busy" if it is in use; then it stays.

    Returns why what was written could not be made durable, "" if it could: it is unmounted all the same, as
    what is lost does not come back if it stays.
    """
    # Before, and by a process of its own, as this one may serve the device: umount(8) tells of nothing lost.
    failure = _run("sync", ["-f", "--", directory]) if _is_writable(directory) else None
    lost = f"{directory}: what was written could not be made durable: {failure}" if failure else ""
    failure = _run("umount", ["--", directory])
    if failure is not None and is_mount_point(directory):  # else another has done it
        what = "; ".join(filter(None, [f"cannot unmount: {failure}", lost]))
        raise ObdError("busy" if "busy" in failure else "io", what, directory)
    return lost


def unmount_lazily(directory: str) -> None:
    """Takes a mount out of the tree at once, whatever uses it; does nothing if there is none."""
    _run("umount", ["-l", "--", directory])


def cut_off(directory: str) -> None:
    """Has all who wait for the FUSE server of a mount be told that it is gone; never waits for it itself."""
    import ctypes

    # The kernel does this first, and then finds that the mount is in use.
    ctypes.CDLL(None).umount2(os.fsencode(directory), _MNT_FORCE)


def _run(program: str, words: list[str]) -> str | None:
    """Runs a program; None if it succeeded, else what it said in one line."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            [program, *words], stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False
        )
    except OSError as error:
        return f"cannot run {program}: {error.strerror}"
    if done.returncode == 0:
        return None
    said = " ".join(done.stderr.decode("utf-8", "replace").split())
    # "mount: /the/directory: reason" repeats what the message says anyway; dmesg hints are for nobody.
    said = re.sub(r"^(u?mount: [^:]*|sync: error syncing .*): ", "", said).replace(
        "dmesg(1) may have more information after failed mount system call.", ""
    )
    return said.strip() or f"{program} ended with status {done.returncode}"


def mounts() -> Iterator[tuple[str, str]]:
    """The mounts of this process's namespace as (`MAJOR:MINOR`, mount point)."""
    for words in _mountinfo():
        yield words[2], unescape(words[4])


def is_mount_point(directory: str) -> bool:
    """True if something is mounted at the absolute path `directory`, even if it does not answer any more."""
    return any(point == directory for _, point in mounts())


def _is_writable(directory: str) -> bool:
    at = [words[5] for words in _mountinfo() if unescape(words[4]) == directory]
    return bool(at) and "rw" in at[-1].split(",")


def type_at(directory: str) -> str:
    """The kind of file system that is mounted at the absolute path `directory`, "" if none is."""
    found = ""
    for words in _mountinfo():
        if unescape(words[4]) == directory:
            found = words[words.index("-") + 1]
    return found


def _mountinfo() -> list[list[str]]:
    path = "/proc/self/mountinfo"
    with about(path), open(path, encoding="utf-8", errors="surrogateescape") as file:
        return [line.split(" ") for line in file]


def unescape(word: str) -> str:
    """The path that a word of mountinfo stands for, where blanks are in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)
