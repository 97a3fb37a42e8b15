"""A cache whose users are killed, whose disk is full, that several share: right bytes, within bounds."""

import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import obdcore
from obd.push import Repository
from obd.registry import Registry
from tests.e2e import servers
from tests.e2e.cache_reader import CHUNK, open_cache

BLOBS = [random.Random(seed).randbytes(400 * CHUNK + 5 * seed) for seed in (1, 2, 3)]
# A third of the blobs: whoever reads evicts.
CAPACITY = 400 * CHUNK
KILLS = 100
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with servers.Registry(tmp_path_factory.mktemp("registry")) as server:
        repository = server.repository("a/b")
        pushed = [Repository(Registry(), repository).push_bytes(data) for data in BLOBS]
        yield [f"{repository}/blobs/{blob.digest}" for blob in pushed]


def start(directory: Path, kind: str, seed: int, urls: list[str]) -> subprocess.Popen[bytes]:
    """A process whose children read, and are killed as by a crash, `KILLS` times."""
    words = [str(directory), str(CAPACITY), kind, str(seed), str(KILLS), *urls]
    return subprocess.Popen([sys.executable, "-m", "tests.e2e.cache_reader", *words], cwd=ROOT)


def check(cache: obdcore.ChunkCache, urls: list[str], seed: int) -> None:
    """Everything reads right: at random, then from end to end."""
    blobs = [Registry().open_blob(url, cache=cache) for url in urls]
    order = random.Random(seed)
    for _ in range(150):
        number = order.randrange(len(blobs))
        offset = order.randrange(len(BLOBS[number]))
        length = min(order.randrange(1, 30 * CHUNK), len(BLOBS[number]) - offset)
        assert blobs[number].read_at(offset, length) == BLOBS[number][offset : offset + length]
    for blob, data in zip(blobs, BLOBS, strict=True):
        assert blob.read_at(0, len(data)) == data


@pytest.mark.parametrize("kind", ["files", str(CHUNK)])
def test_readers_killed_at_any_moment(urls: list[str], tmp_path: Path, kind: str) -> None:
    """Two at a time beside one that checks, on one directory, during refills and evictions."""
    with start(tmp_path, kind, 1, urls) as one, start(tmp_path, kind, 2, urls) as other:
        rounds = 0
        while one.poll() is None or other.poll() is None:
            rounds += 1
            check(open_cache(str(tmp_path), CAPACITY, kind), urls, rounds)
        assert (one.returncode, other.returncode) == (0, 0)
    cache = open_cache(str(tmp_path), CAPACITY, kind)
    check(cache, urls, 1)
    cache.flush()
    taken = sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir())
    # Maps and indexes; and what a file system adds when it gets round to writing scattered files.
    assert taken <= CAPACITY + 16 * CHUNK


@contextmanager
def mounted(kind: str, directory: Path, size_mib: int) -> Iterator[Path]:
    """A file system of its own; the test is skipped where the machine has it not."""
    point = directory / "mnt"
    point.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "none", str(point)]
    elif kind == "overlay":
        for name in ("lower", "upper", "work"):
            (directory / name).mkdir()
        dirs = f"lowerdir={directory}/lower,upperdir={directory}/upper,workdir={directory}/work"
        command = ["mount", "-t", "overlay", "-o", dirs, "none", str(point)]
    else:
        maker = shutil.which(f"mkfs.{kind}")
        if maker is None:
            pytest.skip(f"no mkfs.{kind} on this machine")
        image = directory / "image"
        with image.open("wb") as file:
            file.truncate(size_mib << 20)
        force = "-F" if kind == "ext4" else "-f"
        made = subprocess.run([maker, "-q", force, str(image)], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"cannot make {kind}: {made.stderr.strip()}")
        command = ["mount", "-o", "loop", str(image), str(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount {kind}: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


@pytest.mark.parametrize("filesystem", ["ext4", "xfs", "btrfs", "tmpfs", "overlay"])
def test_every_file_system_will_do(urls: list[str], tmp_path: Path, filesystem: str) -> None:
    with mounted(filesystem, tmp_path, 512) as point:
        for kind in ("files", str(CHUNK)):
            directory = point / kind
            check(open_cache(str(directory), CAPACITY, kind), urls, 1)
            cache = open_cache(str(directory), CAPACITY, kind)
            check(cache, urls, 2)
            assert cache.stats()["hits"] and cache.stats()["evictions"]
            del cache
        large = obdcore.ChunkCache(str(point / "large"), 1 << 30, CHUNK, min_free_bytes=0)
        check(large, urls, 3)
        large.flush()
        again = obdcore.ChunkCache(str(point / "large"), 1 << 30, CHUNK, min_free_bytes=0)
        check(again, urls, 4)
        assert again.stats()["fetches"] == 0, "what was cached was not found again"


def test_a_full_disk_means_reading_uncached_and_saying_so(urls: list[str], tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path, 1) as point:
        begin = time.monotonic()
        cache = obdcore.ChunkCache(str(point), 1 << 30, CHUNK, min_free_bytes=0)
        check(cache, urls, 1)
        cache.flush()
        assert cache.stats()["uncached"] > 0
        notices = cache.notices()
        assert 1 <= len(notices) <= 1 + (time.monotonic() - begin) // 10
        assert all("nothing is kept for 10 s" in notice for notice in notices)


def test_what_others_leave_free_is_left_free(urls: list[str], tmp_path: Path) -> None:
    """Another program fills the disk: the cache gives way at the next opportunity."""
    with mounted("tmpfs", tmp_path, 16) as point:
        spare = 4 << 20
        cache = obdcore.ChunkCache(str(point / "cache"), 1 << 30, CHUNK, min_free_bytes=spare)
        check(cache, urls, 1)
        cache.flush()
        before = cache.stats()["used_bytes"]
        (point / "other").write_bytes(bytes(9 << 20))
        cache.evict(urls[0].rpartition("/")[2])
        blob = Registry().open_blob(urls[0], cache=cache)
        assert blob.read_at(0, len(BLOBS[0])) == BLOBS[0]
        cache.flush()
        assert shutil.disk_usage(point).free >= spare
        assert cache.stats()["used_bytes"] < before


def test_processes_and_threads_on_one_directory(urls: list[str], tmp_path: Path) -> None:
    with start(tmp_path, "files", 3, urls) as reader:
        caches = [open_cache(str(tmp_path), CAPACITY, "files") for _ in range(2)]
        failures: list[BaseException] = []

        def work(cache: obdcore.ChunkCache, seed: int) -> None:
            try:
                check(cache, urls, seed)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(caches[n % 2], n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        reader.terminate()
