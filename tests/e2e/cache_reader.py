"""Reads blobs through a small cache, in a child process that is killed at a random moment, again and again.

Arguments: directory, capacity in bytes, kind of cache (`files` or a pool's line size), seed, kills, URLs.
"""

import os
import random
import signal
import sys
import time
from typing import NoReturn

import obdcore
from obd.registry import Registry

CHUNK = 4096


def open_cache(directory: str, capacity: int, kind: str) -> obdcore.ChunkCache:
    """A cache of small chunks, so that a lot happens in little time."""
    line = None if kind == "files" else int(kind)
    return obdcore.ChunkCache(directory, capacity, CHUNK, min_free_bytes=0, pool_line_bytes=line)


def read(cache: obdcore.ChunkCache, urls: list[str], seed: int, ready: int) -> NoReturn:
    """Reads until it is killed, or whoever would do that is gone."""
    killer = os.getppid()
    blobs = [Registry().open_blob(url, cache=cache) for url in urls]
    order = random.Random(seed)
    os.write(ready, b"!")
    while os.getppid() == killer:
        blob = order.choice(blobs)
        offset = order.randrange(blob.size)
        blob.read_at(offset, min(order.randrange(1, 20 * CHUNK), blob.size - offset))
    os._exit(1)


def main() -> None:
    """Ends with status 0 if every child came to read before it was killed."""
    directory, capacity, kind, seed, kills, *urls = sys.argv[1:]
    order = random.Random(int(seed))
    for number in range(int(kills)):
        hear, ready = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                read(open_cache(directory, int(capacity), kind), urls, number, ready)
            finally:
                os._exit(1)
        os.close(ready)
        came = os.read(hear, 1)
        os.close(hear)
        time.sleep(order.random() * 0.03)  # a random moment is what this is about
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not came:
            sys.exit(f"reader {number} ended by itself")


if __name__ == "__main__":
    main()
