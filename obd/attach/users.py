"""Who uses a block device, so that none is taken away from them."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from obd.errors import ObdError
from obd.mount.filesystem import unescape

# Programs that look at each new device (udev) are done within so long; who has it open for longer uses it.
PATIENCE_S: Final = 1.0
LOOK_S: Final = 0.02

# So many users are named in a message; the others are counted.
NAMED: Final = 4


@dataclass(frozen=True, slots=True)
class User:
    """One who uses a device, in words. `passing` if it may be for a moment only."""

    what: str
    passing: bool = False


def claim(path: str, *, besides: int = 0, patience_s: float = PATIENCE_S) -> int:
    """Opens the block device `path` so that nobody can mount it, if it is not in use; the descriptor.

    Process `besides` (0: none) may have it open, others for `patience_s`. Raises `ObdError` of
    kind "busy" that says who uses it.
    """
    deadline = time.monotonic() + patience_s
    while True:
        fd = _open_exclusively(path)
        users = list(users_of(path, besides=besides, own=fd))
        if fd >= 0 and not users:
            return fd
        if fd >= 0:
            os.close(fd)
        if time.monotonic() > deadline or not all(user.passing for user in users):
            raise ObdError("busy", _in_words(users), path)
        time.sleep(LOOK_S)


def _open_exclusively(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return -1


def _in_words(users: list[User]) -> str:
    if not users:
        return "in use by the kernel (a mount that is not in sight, or a device on top of it)"
    named = ", ".join(user.what for user in users[:NAMED])
    return f"in use: {named}" + (f" and {len(users) - NAMED} more" if len(users) > NAMED else "")


def users_of(path: str, *, besides: int = 0, own: int = -1) -> Iterator[User]:
    """Who uses the block device `path` or a part of it, besides a process and our own descriptor."""
    number = os.stat(path).st_rdev
    nodes = {number: path, **_partitions(number)}
    for each in nodes:
        for holder in _listed(_sysfs(each) / "holders"):
            yield User(f"/dev/{holder.name} is made of it")
    paths = set(nodes.values())
    with suppress(OSError):
        for line in Path("/proc/swaps").read_text().splitlines()[1:]:
            if line.split()[0] in paths:
                yield User("swap")
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if (name := file.read_text().removesuffix("\n")) in paths:
                yield User(f"/dev/{file.parts[3]} has {name} behind it")
    numbers = {f"{os.major(each)}:{os.minor(each)}" for each in nodes}
    yield from _mounts(numbers, paths)
    yield from _openers(set(nodes), besides, own)


def _sysfs(number: int) -> Path:
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")


def _partitions(number: int) -> dict[int, str]:
    found = {}
    for entry in _listed(_sysfs(number)):
        with suppress(OSError, ValueError):
            if (entry / "partition").exists():
                major, _, minor = (entry / "dev").read_text().partition(":")
                found[os.makedev(int(major), int(minor))] = f"/dev/{entry.name}"
    return found


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def processes() -> Iterator[Path]:
    """The directories of all processes in /proc, this one's first."""
    own = Path("/proc", str(os.getpid()))
    yield own
    yield from (entry for entry in _listed(Path("/proc")) if entry.name.isdigit() and entry != own)


def _mounts(numbers: set[str], paths: set[str]) -> Iterator[User]:
    """Mounts in the mount namespaces of all processes."""
    seen: set[str] = set()
    for process in processes():
        with suppress(OSError):
            namespace = os.readlink(process / "ns/mnt")
            if namespace in seen:
                continue
            foreign = f" (for process {process.name})" if seen else ""
            seen.add(namespace)
            for line in (process / "mountinfo").read_text(errors="surrogateescape").splitlines():
                words = line.split(" ")
                source = words[words.index("-") + 2]
                # Some file systems (btrfs) show a number of their own; their source tells.
                if words[2] in numbers or source in paths:
                    yield User(f"mounted at {unescape(words[4])}{foreign}")


def _openers(numbers: set[int], besides: int, own: int) -> Iterator[User]:
    for process in processes():
        pid = int(process.name)
        if pid == besides:
            continue
        for link in _listed(process / "fd"):
            with suppress(OSError):
                # Only what lies in /dev is looked at: elsewhere a look may hang (a dead file server).
                if pid == os.getpid() and int(link.name) == own:
                    continue
                if not os.readlink(link).startswith("/dev/"):
                    continue
                if os.stat(link).st_rdev in numbers:
                    name = (process / "comm").read_text().strip()
                    yield User(f"open in {name} ({pid})", passing=True)
                    break
