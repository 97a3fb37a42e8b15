"""What one image suffers is not felt by those beside it: its registry says nothing, all its readers wait."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import obdcore
from obd.registry import Registry
from tests.e2e.commands import ok
from tests.vm.guest.slow_registry import SlowRegistry, slow_registry

DISK_BYTES = 8 << 20
WAITING = 64  # readers of the bad image, more than any of our pools has threads
KEPT: list[Callable[[Path], obdcore.ChunkCache | None]] = [
    lambda _: None,
    lambda home: obdcore.ChunkCache(str(home / "cache"), 1 << 30, min_free_bytes=0),
    lambda home: obdcore.ChunkCache(
        str(home / "pool"), 1 << 30, 65536, min_free_bytes=0, pool_line_bytes=65536
    ),
]


@pytest.fixture(scope="module")
def raw() -> bytes:
    return random.Random(4).randbytes(DISK_BYTES)


@pytest.fixture
def registries(tmp_path: Path, raw: bytes) -> Iterator[tuple[SlowRegistry, SlowRegistry]]:
    """Two, each with a layer of its own that has the bytes `raw`."""
    (tmp_path / "raw").write_bytes(raw)
    ok("obd", "import", "-z", tmp_path / "raw", tmp_path / "one")
    ok("obd", "import", "-t", tmp_path / "raw", tmp_path / "other")
    with slow_registry(tmp_path / "one") as one, slow_registry(tmp_path / "other") as other:
        yield one, other


@pytest.mark.parametrize("kept", KEPT, ids=["no cache", "files", "pool"])
def test_a_silent_registry_keeps_no_other_image_waiting(
    registries: tuple[SlowRegistry, SlowRegistry],
    raw: bytes,
    tmp_path: Path,
    kept: Callable[[Path], obdcore.ChunkCache | None],
) -> None:
    cache, registry = kept(tmp_path), Registry()
    bad, good = (
        obdcore.Image([registry.open_blob(f"{it.url}/{it.digest}", cache=cache)]) for it in registries
    )
    silent = registries[0]
    silent.open.clear()
    with ThreadPoolExecutor(WAITING) as pool:
        # The middle: opening has fetched what is at the ends.
        places = [DISK_BYTES // 4 + number * (DISK_BYTES // 2 // WAITING) for number in range(WAITING)]
        waiting = [pool.submit(bad.read_at, at, 4096) for at in places]
        try:
            assert silent.waiting.wait(60)
            for at in range(0, DISK_BYTES, 1 << 20):
                assert good.read_at(at, 1 << 20) == raw[at : at + (1 << 20)]
            assert not any(read.done() for read in waiting), "nothing has been said to those"
        finally:
            silent.open.set()
        for at, read in zip(places, waiting, strict=True):
            assert read.result(60) == raw[at : at + 4096]
