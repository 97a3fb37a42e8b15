"""Blobs of a real registry through the cache: anonymous, Basic, Bearer; restarts, kills, bounded size."""

import json
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import obdcore
from obd.credentials import FileCredentials
from obd.oci.media import OCI_MANIFEST
from obd.push import Repository
from obd.registry import PULL, Registry
from tests.e2e import servers

SIZE = 3_000_017
DATA = random.Random(7).randbytes(SIZE)
USERS = {"ann": "secret-word"}


def credentials(path: Path, host: str, password: str = "secret-word") -> FileCredentials:
    path.write_text(json.dumps({"auths": {host: {"username": "ann", "password": password}}}))
    return FileCredentials(str(path))


def push(registry: Registry, repository: str, data: bytes = DATA) -> str:
    """The URL of a pushed blob."""
    return f"{repository}/blobs/{Repository(registry, repository).push_bytes(data).digest}"


def disk_usage(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Registry]:
    with servers.Registry(tmp_path_factory.mktemp("plain")) as server:
        yield server


@pytest.fixture(scope="module")
def plain_url(plain: servers.Registry) -> str:
    return push(Registry(), plain.repository("team/app"))


def read_all(blob: obdcore.RemoteBlob) -> None:
    order = random.Random(1)
    for _ in range(100):
        offset = order.randrange(SIZE)
        length = min(order.randrange(1, 700_000), SIZE - offset)
        assert blob.read_at(offset, length) == DATA[offset : offset + length]
    assert blob.read_at(0, SIZE) == DATA


def test_anonymous_and_restart(plain_url: str, tmp_path: Path) -> None:
    for start in ("cold", "warm"):
        cache = obdcore.ChunkCache(str(tmp_path), 1 << 30, min_free_bytes=0)
        blob = Registry().open_blob(plain_url, cache=cache)
        assert blob.size == SIZE
        read_all(blob)
        cache.flush()
        if start == "cold":
            assert cache.stats()["fetched_bytes"] <= SIZE
        else:
            assert blob.stats()["requests"] == 0, "a restart loses nothing, and asks for nothing"
        assert cache.notices() == []
        del blob, cache
    digest = plain_url.rpartition("/")[2]
    assert (tmp_path / digest).read_bytes() == DATA


def test_a_cold_read_costs_one_request(plain_url: str, tmp_path: Path) -> None:
    cache = obdcore.ChunkCache(str(tmp_path), 1 << 30, min_free_bytes=0)
    blob = Registry().open_blob(plain_url, size=SIZE, cache=cache)
    assert blob.stats()["requests"] == 0
    blob.read_at(1 << 20, 4096)
    assert blob.stats()["requests"] == 1
    buffer = bytearray(4096)
    assert blob.readinto_at(buffer, SIZE - 17) == 17
    assert buffer[:17] == DATA[-17:]
    with pytest.raises(obdcore.Error, match="out-of-bounds"):
        blob.read_at(SIZE - 17, 18)


def test_the_size_is_bounded(plain_url: str, tmp_path: Path) -> None:
    capacity = 1 << 20
    cache = obdcore.ChunkCache(str(tmp_path), capacity, 4096, min_free_bytes=0)
    blob = Registry().open_blob(plain_url, cache=cache)
    read_all(blob)
    cache.flush()
    # The file system adds blocks for the extents of a scattered file when it gets round to it.
    assert disk_usage(tmp_path) <= capacity + 32 * 4096
    assert cache.stats()["evictions"] > 0


def test_basic(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with servers.Registry(tmp_path / "registry", users=USERS) as server, caplog.at_level(logging.DEBUG):
        good = Registry(credentials(tmp_path / "good.json", server.host))
        url = push(good, server.repository("a/b"))
        blob = good.open_blob(url)
        read_all(blob)
        for bad in (None, credentials(tmp_path / "bad.json", server.host, "wrong-word")):
            with pytest.raises(obdcore.Error) as caught:
                Registry(bad).open_blob(url)
            assert caught.value.kind == "denied"
            assert "401" in str(caught.value) and "-word" not in str(caught.value)
        # The file may be put right while a blob is open.
        credentials(tmp_path / "good.json", server.host, "wrong-word")
        blob = good.open_blob(url, size=SIZE)
        with pytest.raises(obdcore.Error, match=r'denied: .*good.json, user "ann"'):
            blob.read_at(0, 1)
        credentials(tmp_path / "good.json", server.host)
        assert blob.read_at(0, 10) == DATA[:10]
    assert "-word" not in caplog.text and "Basic" not in caplog.text


def test_bearer(tmp_path: Path) -> None:
    with (
        servers.TokenServer(tmp_path / "tokens", USERS) as tokens,
        servers.Registry(tmp_path / "registry", tokens=tokens) as server,
    ):
        registry = Registry(credentials(tmp_path / "cred.json", server.host))
        url = push(registry, server.repository("a/b"))
        pushed = Repository(registry, server.repository("a/b")).push_manifest("v1", [])
        assert pushed.size > 0
        blob = registry.open_blob(url, size=SIZE)
        tokens.seen.clear()
        threads = [threading.Thread(target=blob.read_at, args=(i * 1000, 1000)) for i in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert tokens.seen == ["repository:a/b:pull"], "one token for all who wait"
        read_all(blob)
        read_all(registry.open_blob(url))
        assert len(tokens.seen) == 1
        with pytest.raises(obdcore.Error) as caught:
            Registry().open_blob(url)
        assert caught.value.kind == "denied"


def test_push_is_streamed_and_says_how_far_it_is(plain: servers.Registry, tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(DATA[::-1])
    repository = Repository(Registry(), plain.repository("parts"), part_bytes=1 << 20)
    seen: list[tuple[int, int]] = []
    layer = repository.push_file(str(path), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (SIZE, SIZE) and len(seen) == 3 and seen == sorted(seen)
    seen.clear()
    assert repository.push_file(str(path), lambda done, total: seen.append((done, total))) == layer
    assert seen == [(SIZE, SIZE)], "what is there is not sent again"
    url = f"{plain.repository('parts')}/blobs/{layer.digest}"
    assert Registry().open_blob(url).read_at(0, SIZE) == DATA[::-1]
    manifest = repository.push_manifest("v1", [layer])
    with Registry().request(
        "GET", f"{plain.repository('parts')}/manifests/v1", action=PULL, headers={"Accept": OCI_MANIFEST}
    ) as answer:
        assert answer.headers["Docker-Content-Digest"] == manifest.digest
        (described,) = answer.json()["layers"]
    assert described["annotations"] == {
        "containerd.io/snapshot/overlaybd/version": "0.1.0",
        "containerd.io/snapshot/overlaybd/blob-digest": layer.digest,
        "containerd.io/snapshot/overlaybd/blob-size": str(SIZE),
    }


READER = """
import sys
import obdcore
from obd.registry import Registry
cache = obdcore.ChunkCache(sys.argv[2], 1 << 30, 4096, min_free_bytes=0)
blob = Registry().open_blob(sys.argv[1], cache=cache)
for offset in range(0, blob.size - 50_000, 50_000):
    blob.read_at(offset, 50_000)
    print(flush=True)
"""


@pytest.mark.parametrize("reads", [1, 3, 20, 40])
def test_a_kill_at_any_moment_costs_no_byte(plain_url: str, tmp_path: Path, reads: int) -> None:
    command = [sys.executable, "-c", READER, plain_url, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as reader:
        assert reader.stdout is not None
        for _ in range(reads):
            assert reader.stdout.readline() == b"\n"
        reader.kill()
    cache = obdcore.ChunkCache(str(tmp_path), 1 << 30, 4096, min_free_bytes=0)
    blob = Registry().open_blob(plain_url, cache=cache)
    read_all(blob)
    assert cache.notices() == []


def test_bits_that_flip_on_disk(plain_url: str, tmp_path: Path) -> None:
    media = tmp_path / plain_url.rpartition("/")[2]
    for name in (media, media.with_name(media.name + ".map")):
        cache = obdcore.ChunkCache(str(tmp_path), 1 << 30, 4096, min_free_bytes=0)
        blob = Registry().open_blob(plain_url, cache=cache)
        read_all(blob)
        del blob, cache
        flips = random.Random(3)
        with name.open("r+b") as file:
            for _ in range(50):
                at = flips.randrange(os.fstat(file.fileno()).st_size)
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 1 << flips.randrange(8)]))
        cache = obdcore.ChunkCache(str(tmp_path), 1 << 30, 4096, min_free_bytes=0)
        blob = Registry().open_blob(plain_url, cache=cache)
        read_all(blob)
        assert blob.stats()["requests"] > 0
        del blob, cache
