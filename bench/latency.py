"""A registry 20 ms away: many cold readers, many readers of one chunk, and one that reads in order."""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import obdcore
from obd.registry import Registry

ROOT = Path(__file__).resolve().parents[1]
DELAY_S = 0.020
BLOB_BYTES = 512 << 20
PATH = "/v2/bench/latency/blobs/sha256:" + "0" * 64
CHUNK_BYTES = 256 << 10
READERS = 32
READS_EACH = 25
CROWD = 200
# What the kernel's own readahead asks of a device.
SEQUENTIAL_READ_BYTES = 128 << 10
SEQUENTIAL_BYTES = 64 << 20
ROUNDS = 5


def build() -> Path:
    """Builds the server."""
    command = ["cargo", "build", "--release", "--locked", "--manifest-path", "core/Cargo.toml"]
    command += ["--package", "overlaybd", "--example", "slow_server", "--message-format=json", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return Path(next(line["executable"] for line in lines if line.get("executable")))


@contextmanager
def serving(program: Path) -> Iterator[str]:
    """The base URL of the server."""
    command = [str(program), str(round(DELAY_S * 1000)), str(BLOB_BYTES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def requests(url: str) -> int:
    """Requests for the blob so far."""
    with urllib.request.urlopen(f"{url}/requests") as answer:
        return int(answer.read())


def together(count: int, work: Callable[[int], None]) -> float:
    """Seconds that so many threads need, all starting at once."""
    barrier = threading.Barrier(count + 1)

    def run(number: int) -> None:
        barrier.wait()
        work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    barrier.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


def open_blob(url: str, cache: obdcore.ChunkCache) -> obdcore.RemoteBlob:
    """The blob, with what connections there are."""
    return Registry().open_blob(url + PATH, size=BLOB_BYTES, cache=cache)


def cold_random(url: str, cache: obdcore.ChunkCache) -> float:
    """Time of random 4 KiB reads, each of a chunk of its own, as a multiple of what the delay alone takes."""
    chunks = random.sample(range(BLOB_BYTES // CHUNK_BYTES), READERS * READS_EACH)
    blob = open_blob(url, cache)

    def read(number: int) -> None:
        for chunk in chunks[number::READERS]:
            blob.read_at(chunk * CHUNK_BYTES + 8192, 4096)

    return together(READERS, read) / (READS_EACH * DELAY_S)


def crowd(url: str, cache: obdcore.ChunkCache) -> int:
    """Requests that many readers of one missing chunk make."""
    blob = open_blob(url, cache)
    before = requests(url)

    def read(number: int) -> None:
        blob.read_at(CHUNK_BYTES + 4096 * (number % 64), 4096)

    together(CROWD, read)
    return requests(url) - before


def sequential(url: str, cache: obdcore.ChunkCache, size: int) -> float:
    """Bytes a second of a reader that goes from the beginning on, for `size` bytes."""
    blob = open_blob(url, cache)
    buffer = bytearray(SEQUENTIAL_READ_BYTES)
    begin = time.perf_counter()
    for offset in range(0, size, SEQUENTIAL_READ_BYTES):
        blob.readinto_at(buffer, offset)
    return size / (time.perf_counter() - begin)


def row(name: str, value: float, unit: str, peer: str, ratio: float | None) -> None:
    """One measurement for `bench.run`."""
    print(json.dumps({"name": name, "value": value, "unit": unit, "peer": peer, "ratio": ratio}), flush=True)


def main() -> None:
    """Each with an empty cache each time; the median counts."""
    with tempfile.TemporaryDirectory() as folder, serving(build()) as url:

        def cache(*, readahead: bool = True) -> obdcore.ChunkCache:
            # What an earlier round wrote must not wait for the disk while this one is measured.
            place = f"{folder}/cache"
            shutil.rmtree(place, ignore_errors=True)
            return obdcore.ChunkCache(
                place, 4 * BLOB_BYTES, CHUNK_BYTES, min_free_bytes=0, readahead=readahead
            )

        random_reads = sorted(cold_random(url, cache()) for _ in range(ROUNDS))
        print("cold random", [round(ratio, 3) for ratio in random_reads], file=sys.stderr)
        ratio = random_reads[ROUNDS // 2]
        rate = READERS / DELAY_S / ratio
        row("latency.cold_random_32", rate, "reads/s", "the delay alone", ratio)
        row("latency.crowd_requests", crowd(url, cache()), "requests", f"{CROWD} readers", None)
        pairs = [
            (
                sequential(url, cache(), SEQUENTIAL_BYTES),
                # A request for each chunk: an eighth of the bytes takes long enough.
                sequential(url, cache(readahead=False), SEQUENTIAL_BYTES // 8),
            )
            for _ in range(ROUNDS)
        ]
        fast, slow = sorted(pairs, key=lambda pair: pair[0] / pair[1])[ROUNDS // 2]
        row("latency.sequential", fast / 1e6, "MB/s", f"without readahead: {slow / 1e6:.1f}", fast / slow)


if __name__ == "__main__":
    main()
