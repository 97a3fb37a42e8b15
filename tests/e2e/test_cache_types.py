"""The cache types beside `file`: layers kept in their own directories, and the block pool."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import obdcore
from obd.config import Lower, ServiceConfig, parse_service
from obd.push import Repository
from obd.registry import Registry
from obd.service import Service
from tests.e2e import servers

DATA = random.Random(11).randbytes(3_000_017)
SIZE = len(DATA)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.Registry(tmp_path_factory.mktemp("registry")) as server:
        repository = server.repository("a/b")
        yield f"{repository}/blobs/{Repository(Registry(), repository).push_bytes(DATA).digest}"


def configuration() -> ServiceConfig:
    return parse_service({"cacheConfig": {"cacheType": "download", "cacheDir": "/nonexistent/unused"}})


def test_reads_and_fillings_complete_the_file_of_the_layer(url: str, tmp_path: Path) -> None:
    service = Service(configuration())
    lower = Lower(digest=url.rpartition("/")[2], size_bytes=SIZE, dir=str(tmp_path))
    blob = service.blob(url, lower)
    assert blob.missing(0, SIZE) == [(0, SIZE)]
    assert blob.read_at(1_000_000, 10) == DATA[1_000_000:1_000_010]
    service.cache().flush()
    first = 1_000_000 // 262144 * 262144
    assert blob.missing(0, SIZE) == [(0, first), (first + 262144, SIZE - first - 262144)]
    blob.fill(0, SIZE)
    assert blob.missing(0, SIZE) == []
    assert blob.stats()["requests"] == 3
    assert hashlib.sha256((tmp_path / ".download").read_bytes()).hexdigest() == url.rpartition(":")[2]
    again = service.blob(url, lower)
    assert (again.read_at(0, SIZE), again.stats()["requests"]) == (DATA, 0)


def test_a_layer_without_directory_or_size_is_read_uncached(url: str, tmp_path: Path) -> None:
    service = Service(configuration())
    digest = url.rpartition("/")[2]
    for lower in (Lower(digest=digest, size_bytes=SIZE), Lower(digest=digest, dir=str(tmp_path))):
        blob = service.blob(url, lower)
        assert blob.read_at(10, 100) == DATA[10:110]
        assert blob.missing(10, 100) == [(10, 100)]
        with pytest.raises(obdcore.Error, match="uncached"):
            blob.fill(0, 100)
    assert list(tmp_path.iterdir()) == []


def test_the_block_pool_of_a_configuration(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = {"cacheType": "ocf", "cacheDir": str(tmp_path), "cacheSizeGB": 1, "blockSize": 4096}
    service = Service(parse_service({"cacheConfig": cache}))
    lower = Lower(digest=url.rpartition("/")[2], size_bytes=SIZE)
    assert service.blob(url, lower).read_at(0, SIZE) == DATA
    media = (tmp_path / "cache_media").stat()
    assert media.st_size == 1 << 30 <= media.st_blocks * 512
    again = service.blob(url, lower)
    assert (again.read_at(0, SIZE), again.stats()["requests"]) == (DATA, 0)
    # Another process finds it in use, and serves all the same.
    second = obdcore.ChunkCache(str(tmp_path), 1 << 30, pool_line_bytes=4096)
    assert "another process uses it" in second.notices()[0]
    uncached = Registry().open_blob(url, size=SIZE, cache=second)
    assert uncached.read_at(0, SIZE) == DATA
    assert caplog.messages == []
