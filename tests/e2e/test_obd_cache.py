"""`obd cache` beside live readers: what is there, what is wrong with it, out with it, or kept for good."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import obdcore
from obd.push import Repository
from obd.registry import Registry
from tests.e2e import servers
from tests.e2e.commands import ok, run

SIZE = 3_000_017
CHUNK = 262144
BLOBS = [random.Random(seed).randbytes(SIZE) for seed in (1, 2)]


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with servers.Registry(tmp_path_factory.mktemp("registry")) as server:
        repository = server.repository("a/b")
        pushed = [Repository(Registry(), repository).push_bytes(data) for data in BLOBS]
        yield [f"{repository}/blobs/{blob.digest}" for blob in pushed]


@pytest.fixture
def directory(urls: list[str], tmp_path: Path) -> Path:
    """A cache that has all of the first blob, and three chunks of the second."""
    cache = obdcore.ChunkCache(str(tmp_path), 1 << 30, min_free_bytes=0)
    Registry().open_blob(urls[0], cache=cache).read_at(0, SIZE)
    Registry().open_blob(urls[1], cache=cache).read_at(CHUNK, CHUNK + 1)
    return tmp_path


def digest(url: str) -> str:
    return url.rpartition("/")[2]


def stat(directory: Path) -> dict[str, dict[str, Any]]:
    facts = json.loads(ok("obd", "cache", "stat", "--dir", directory, "--json").out)
    assert facts["bytes"] == sum(path.stat().st_blocks * 512 for path in directory.iterdir())
    return {blob["digest"]: blob for blob in facts["blobs"]}


def test_stat_tells_what_is_there(urls: list[str], directory: Path) -> None:
    blobs = stat(directory)
    assert [(blobs[digest(url)]["present"], blobs[digest(url)]["chunks"]) for url in urls] == [
        (12, 12),
        (3, 12),
    ]
    assert not any(blob["pinned"] or blob["in_use"] for blob in blobs.values())
    lines = ok("obd", "cache", "stat", "--dir", directory).out.splitlines()
    assert lines[0].startswith(digest(urls[1])) and "3/12 chunks" in lines[0], "last used first"
    assert "2 blobs" in lines[-1]


def test_verify_and_repair(urls: list[str], directory: Path) -> None:
    done = ok("obd", "cache", "verify", "--dir", directory)
    assert f"{digest(urls[0])}: 12 chunks checked, all right, digest right" in done.out
    with (directory / digest(urls[0])).open("r+b") as media:
        media.seek(5 * CHUNK + 77)
        media.write(b"rot")
    reader = obdcore.ChunkCache(str(directory), 1 << 30, min_free_bytes=0)
    live = Registry().open_blob(urls[0], cache=reader)
    bad = run("obd", "cache", "verify", "--dir", directory, "--json")
    found = {blob["digest"]: blob for blob in json.loads(bad.out)}
    assert bad.status == 255 and found[digest(urls[0])]["bad"] == [5]
    repaired = ok("obd", "cache", "repair", "--dir", directory, digest(urls[0]))
    assert "1 wrong, dropped (a process has it open" in repaired.out
    ok("obd", "cache", "verify", "--dir", directory)
    assert live.read_at(0, SIZE) == BLOBS[0]
    assert live.stats()["requests"] == 1


def test_evict_and_pin(urls: list[str], directory: Path) -> None:
    config = directory / "config.json"
    config.write_text(
        json.dumps(
            {
                "repoBlobUrl": urls[0].rpartition("/")[0],
                "lowers": [{"digest": digest(urls[0]), "size": SIZE}],
                "resultFile": "",
            }
        )
    )
    assert ok("obd", "cache", "pin", "--dir", directory, config).out == f"{digest(urls[0])}: pinned\n"
    config.unlink()
    refused = run("obd", "cache", "evict", "--dir", directory, digest(urls[0]))
    assert refused.status == 255 and "pinned" in refused.err
    reader = obdcore.ChunkCache(str(directory), 1 << 30, min_free_bytes=0)
    live = Registry().open_blob(urls[1], cache=reader)
    assert "process has it open" in run("obd", "cache", "evict", "--dir", directory, digest(urls[1])).err
    assert run("obd", "cache", "evict", "--dir", directory, "--all").status == 255
    assert len(stat(directory)) == 2
    del live
    assert run("obd", "cache", "evict", "--dir", directory, "--down-to", "0").status == 255
    assert list(stat(directory)) == [digest(urls[0])]
    ok("obd", "cache", "unpin", "--dir", directory, digest(urls[0]))
    ok("obd", "cache", "evict", "--dir", directory, digest(urls[0]))
    assert list(directory.iterdir()) == []


def test_a_wrong_command_is_told(tmp_path: Path) -> None:
    def told(*words: str) -> str:
        done = run("obd", "cache", *words)
        assert done.status == 255
        return done.err

    assert "no such directory" in told("stat", "--dir", str(tmp_path / "none"))
    assert "either digests" in told("evict", "--dir", str(tmp_path))
    assert "not-found" in told("evict", "--dir", str(tmp_path), "sha256:" + "0" * 64)
