"""A layer of a registry that a local file takes over while it is read, and what becomes of a bad file."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import obdcore
from obd.push import Repository
from obd.registry import Registry
from tests.e2e import servers
from tests.e2e.commands import ok

DISK_BYTES = 4 << 20
RAW = random.Random(9).randbytes(DISK_BYTES)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compressed, tar-wrapped layer of `RAW`."""
    home = tmp_path_factory.mktemp("layer")
    (home / "raw").write_bytes(RAW)
    ok("obd", "import", "-z", "-t", home / "raw", home / "layer")
    return home / "layer"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, layer: Path) -> Iterator[str]:
    with servers.Registry(tmp_path_factory.mktemp("registry")) as server:
        repository = server.repository("a/b")
        yield f"{repository}/blobs/{Repository(Registry(), repository).push_file(str(layer)).digest}"


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)


def open_cold(url: str, cache: Path) -> obdcore.RemoteBlob:
    return Registry().open_blob(url, cache=obdcore.ChunkCache(str(cache), 1 << 30, min_free_bytes=0))


def test_readers_beside_a_switch_see_nothing_of_it(url: str, layer: Path, tmp_path: Path) -> None:
    blob = open_cold(url, tmp_path / "cache")
    image = obdcore.Image([blob])
    half_way, switched = threading.Event(), threading.Event()
    wrong: list[int] = []

    def read(seed: int) -> None:
        order = random.Random(seed)
        for turn in range(400):
            if turn == 100:
                half_way.set()
            if turn == 200:
                switched.wait()
            at = order.randrange(DISK_BYTES - 5000)
            if image.read_at(at, 5000) != RAW[at : at + 5000]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    half_way.wait()
    told: list[str] = []
    blob.switch_to(str(layer), told.append)
    before = blob.stats()["fetched_bytes"]
    switched.set()
    for thread in threads:
        thread.join()
    assert wrong == [] and told == [] and blob.local == str(layer)
    image.read_at(0, DISK_BYTES)
    # At most what was under way at the moment of the switch.
    assert blob.stats()["fetched_bytes"] - before <= 4 * 262144


@pytest.mark.parametrize("damage", ["bit", "cut", "directory"])
def test_a_bad_file_is_left_for_the_registry(url: str, layer: Path, tmp_path: Path, damage: str) -> None:
    blob = open_cold(url, tmp_path / "cache")
    image = obdcore.Image([blob])
    copy = tmp_path / "overlaybd.commit"
    copy.write_bytes(layer.read_bytes())
    told: list[str] = []
    if damage == "directory":
        with pytest.raises(OSError):
            blob.switch_to(str(tmp_path), told.append)
    elif damage == "cut":
        copy.write_bytes(copy.read_bytes()[:-1])
        with pytest.raises(obdcore.Error, match="corrupt"):
            blob.switch_to(str(copy), told.append)
    blob_read = image.read_at(0, 1 << 20)
    if damage == "bit":
        flip(copy, copy.stat().st_size // 2)
        blob.switch_to(str(copy), told.append)
    assert blob_read + image.read_at(1 << 20, DISK_BYTES - (1 << 20)) == RAW
    assert blob.local is None
    assert len(told) == (1 if damage == "bit" else 0)
    assert all(str(copy) in line for line in told)


def test_a_copy_takes_what_is_cached_and_keeps_nothing(url: str, layer: Path, tmp_path: Path) -> None:
    cache = obdcore.ChunkCache(str(tmp_path), 1 << 30, min_free_bytes=0)
    data = layer.read_bytes()
    blob = Registry().open_blob(url, size=len(data), cache=cache)
    read = blob.read_at(1 << 20, 1 << 20)
    cache.flush()
    had = blob.stats()["fetched_bytes"]
    kept = cache.stats()["fetched_bytes"]
    buffer = bytearray(len(data) + 100)
    assert blob.copy_into(memoryview(buffer)[1000:], 1000) == len(data) - 1000
    assert buffer[1000 : len(data)] == data[1000:] and read in data
    fetched = blob.stats()["fetched_bytes"] - had
    assert fetched == len(data) - 1000 - (1 << 20), "what was cached came from the cache"
    assert cache.stats()["fetched_bytes"] == kept, "nothing went into it"
