"""A cold blob read through the cache, 1 GiB in sequence, against `curl -o /dev/null` of the same URL."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import obdcore
from obd.push import Repository
from obd.registry import Registry
from tests.e2e import servers

BLOB_BYTES = 1 << 30
READ_BYTES = 1 << 20
ROUNDS = 5


def make(path: Path) -> None:
    """A file of bytes that do not compress."""
    block = os.urandom(16 << 20)
    with path.open("wb") as file:
        for _ in range(BLOB_BYTES // len(block)):
            file.write(block)


def curl(url: str) -> float:
    """Seconds that curl takes for the whole blob."""
    begin = time.perf_counter()
    subprocess.run(["curl", "-sSf", "-o", "/dev/null", url], check=True)
    return time.perf_counter() - begin


def cold(url: str, directory: Path) -> float:
    """Seconds that a sequential reader takes whose cache is empty."""
    shutil.rmtree(directory, ignore_errors=True)
    cache = obdcore.ChunkCache(str(directory), 2 * BLOB_BYTES, min_free_bytes=0)
    buffer = bytearray(READ_BYTES)
    begin = time.perf_counter()
    blob = Registry().open_blob(url, size=BLOB_BYTES, cache=cache)
    for offset in range(0, BLOB_BYTES, READ_BYTES):
        blob.readinto_at(buffer, offset)
    took = time.perf_counter() - begin
    print(f"cold {BLOB_BYTES / took / 1e6:.0f} MB/s {cache.stats()}", file=sys.stderr)
    return took


def row(name: str, value: float, unit: str, peer: str | None, ratio: float | None) -> None:
    """One measurement for `bench.run`."""
    print(json.dumps({"name": name, "value": value, "unit": unit, "peer": peer, "ratio": ratio}))


def main() -> None:
    """Takes turns, so that what else the machine does hits both alike; the median of the ratios counts."""
    with tempfile.TemporaryDirectory() as folder, servers.Registry(Path(folder) / "registry") as server:
        make(Path(folder) / "blob")
        repository = server.repository("bench/fetch")
        pushed = Repository(Registry(), repository).push_file(str(Path(folder) / "blob"))
        url = f"{repository}/blobs/{pushed.digest}"
        rounds = []
        for _ in range(ROUNDS):
            peer = curl(url)
            print(f"curl {BLOB_BYTES / peer / 1e6:.0f} MB/s", file=sys.stderr)
            rounds.append((peer / (took := cold(url, Path(folder) / "cache")), took))
        ratio, took = sorted(rounds)[ROUNDS // 2]
        row("fetch.cold_sequential", BLOB_BYTES / took / 1e6, "MB/s", "curl", ratio)

        cache = obdcore.ChunkCache(str(Path(folder) / "small"), BLOB_BYTES, min_free_bytes=0)
        blob = Registry().open_blob(url, size=BLOB_BYTES, cache=cache)
        reads = 100
        for i in range(reads):
            blob.read_at(i * (4 << 20) + 8192, 4096)
        row("fetch.requests_per_cold_read", blob.stats()["requests"] / reads, "requests", None, None)


if __name__ == "__main__":
    main()
