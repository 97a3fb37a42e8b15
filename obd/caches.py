"""The caches of a process: one for each directory, whichever images and services ask for it."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Final

import obdcore

if TYPE_CHECKING:
    from obd.config import CacheConfig, Lower
    from obd.config.service import GzipCacheConfig

_log: Final = logging.getLogger("overlaybd.service")

# The largest chunk that the core's cache takes.
MAX_CHUNK_BYTES: Final = 8 << 20
# Bytes that stay free beside the cache of decompressed layers.
GZIP_MIN_FREE_BYTES: Final = 4 << 30
# What on-demand reads and background download fill together, in the directory of a layer.
DOWNLOAD_NAME: Final = ".download"

# By directory; "" is the one for blobs in layer directories. Two caches of one directory would evict each
# other's files.
_caches: Final[dict[str, obdcore.ChunkCache]] = {}
_capacities: Final[dict[str, int]] = {}
_lock: Final = threading.Lock()


def chunk_cache(settings: CacheConfig) -> obdcore.ChunkCache:
    """The cache for remote layers; its directory is created if need be. Raises `OSError`."""
    if settings.type == "download":
        return _open("", 0, settings.refill_size_bytes)
    line = settings.block_size_bytes if settings.type == "ocf" else None
    return _open(settings.dir, settings.size_bytes, settings.refill_size_bytes, pool_line_bytes=line)


def gzip_cache(settings: GzipCacheConfig) -> obdcore.ChunkCache:
    """The cache for decompressed targets of turboOCI layers. Raises `OSError`."""
    # Nothing in advance: what is below the target fetches ahead, and to unpack more than is read takes time.
    return _open(
        settings.dir,
        settings.size_gib << 30,
        settings.refill_size_bytes,
        min_free_bytes=GZIP_MIN_FREE_BYTES,
        readahead=False,
    )


def layer_media(settings: CacheConfig, lower: Lower) -> str | None:
    """The file in the directory of `lower` that keeps it with cacheType `download`.

    None for another type, or where it has no place of its own: such a layer is read uncached with that type.
    """
    if settings.type != "download" or not lower.dir or not lower.size_bytes:
        return None
    return os.path.join(os.path.realpath(lower.dir), DOWNLOAD_NAME)


def open_caches() -> dict[str, tuple[obdcore.ChunkCache, int]]:
    """The caches of this process and their capacities in bytes, by directory ("": in layer directories)."""
    with _lock:
        return {directory: (cache, _capacities[directory]) for directory, cache in _caches.items()}


def log_notices() -> None:
    """Puts what the caches have to say into the log."""
    for cache, _ in open_caches().values():
        for line in cache.notices():
            _log.warning("%s", line)


def _open(
    directory: str,
    size_bytes: int,
    refill_bytes: int,
    *,
    min_free_bytes: int = 1 << 30,
    pool_line_bytes: int | None = None,
    readahead: bool = True,
) -> obdcore.ChunkCache:
    directory = os.path.realpath(directory) if directory else ""
    with _lock:
        cache = _caches.get(directory)
        if cache is None:
            chunk_bytes = min(refill_bytes, MAX_CHUNK_BYTES)
            if chunk_bytes != refill_bytes:
                _log.warning(
                    "refillSize %d is more than is fetched at a time: %d is used", refill_bytes, chunk_bytes
                )
            if directory:
                # What is cached may be of images that not everybody here may pull.
                os.makedirs(directory, mode=0o700, exist_ok=True)
            _capacities[directory] = size_bytes
            cache = _caches[directory] = obdcore.ChunkCache(
                directory,
                size_bytes,
                chunk_bytes,
                min_free_bytes=min_free_bytes,
                pool_line_bytes=pool_line_bytes,
                readahead=readahead,
            )
        return cache
