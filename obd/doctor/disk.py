"""The disk under the caches: a directory to write to, room, and a file system that has holes."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from obd.config import ServiceConfig
from obd.doctor import Finding

_GIB: Final = 1 << 30
# A hole that large takes no room, on a file system that has holes.
_HOLE_BYTES: Final = 1 << 20
# What is needed at least for a cache to be of use; below it, nothing is kept.
_LEAST_FREE_BYTES: Final = 1 << 30
# A cache may have a million files: so long they are looked at.
_LOOK_S: Final = 5.0


def check_disk(config: ServiceConfig) -> Iterator[Finding]:
    """The directories of the caches that are configured."""
    cache = config.cache
    new = bool(config.cache_config.type)
    keys = (
        ("cacheConfig.cacheDir", "cacheConfig.cacheSizeGB")
        if new
        else ("registryCacheDir", "registryCacheSizeGB")
    )
    if cache.type != "download":
        yield from _directory(cache.dir, cache.size_bytes, *keys)
    if config.gzip_cache.enable:
        gzip = config.gzip_cache
        yield from _directory(
            gzip.dir, gzip.size_bytes, "gzipCacheConfig.cacheDir", "gzipCacheConfig.cacheSizeGB"
        )


def _directory(path: str, size_bytes: int, directory_key: str, size_key: str) -> Iterator[Finding]:
    place = path
    while not os.path.lexists(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        yield Finding(
            "problem", "disk", f"{directory_key}: {place} is no directory", f"correct {directory_key}"
        )
        return
    try:
        holes = _has_holes(place)
    except OSError as error:
        what = f"{directory_key}: cannot write in {place}: {error.strerror}"
        yield Finding("problem", "disk", what, f"make it writable, or correct {directory_key}")
        return
    if place != path:
        yield Finding(
            "warning", "disk", f"{directory_key}: no {path} yet: made when it is needed", f"mkdir -p {path}"
        )
    if not holes:
        what = f"{directory_key}: no holes in files of {place}: a cached chunk takes the room of its blob"
        yield Finding("warning", "disk", what, "use ext4 or XFS")
    stat = os.statvfs(place)
    free_bytes = stat.f_bavail * stat.f_frsize
    used_bytes, whole = _used(path)
    used = f"{'' if whole else 'more than '}{used_bytes / _GIB:.1f} of {size_bytes / _GIB:g} GiB used"
    room = f"{free_bytes / _GIB:.1f} GiB free, {used}"
    if free_bytes < _LEAST_FREE_BYTES:
        what = f"{path}: {room}: nothing is cached where so little is free"
        yield Finding("problem", "disk", what, "free room, or move the cache to another disk")
    elif free_bytes + used_bytes < size_bytes:
        yield Finding(
            "warning", "disk", f"{path}: {room}: it cannot grow so far", f"lower {size_key}, or free room"
        )
    else:
        yield Finding("ok", "disk", f"{path}: {room}")
    if stat.f_files and stat.f_favail < 1000:
        yield Finding("warning", "disk", f"{path}: only {stat.f_favail} inodes are free", "remove files")


def _has_holes(directory: str) -> bool:
    """Whether a file there takes room only for what is written. `OSError` if none can be made."""
    name = os.path.join(directory, f".obd-doctor-{os.getpid()}")
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.unlink(name)
        os.pwrite(fd, b"x", _HOLE_BYTES)
        return os.fstat(fd).st_blocks * 512 < _HOLE_BYTES
    finally:
        os.close(fd)


def _used(path: str) -> tuple[int, bool]:
    """Bytes that the files of a cache directory take on disk, and whether there was time to see them all."""
    total, end = 0, time.monotonic() + _LOOK_S
    for directory, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
        if time.monotonic() > end:
            return total, False
    return total, True
