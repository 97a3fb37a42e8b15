"""Traces on a real registry: recorded by one node, replayed by the next one, whose cache is empty."""

import io
import json
import os
import random
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import obd
from cache.prefetch import Replay
from obd.image import Device
from obd.service import Service
from tests.e2e.commands import ok, serving
from tests.e2e.servers import Registry
from tests.ref import trace_ref

MIB = 1 << 20
DISK_BYTES = 16 * MIB
WAIT_S = 30.0
# What the "application" reads: single pages, a run, and the end.
READS = [(5 * MIB + 4096, 4096), (MIB, 3 * MIB // 2), (9 * MIB, 512), (DISK_BYTES - 65536, 65536)]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    path.write_bytes(random.Random(8).randbytes(DISK_BYTES))
    return path


def push(registry: Registry, raw: Path, home: Path) -> Path:
    """Pushes an image of one compressed layer; its configuration."""
    ok("obd", "import", "-z", "-t", raw, home / "layer")
    ok("obd", "push", home / "layer", "--to", f"{registry.host}/a:v1", "--config", home / "pushed.json")
    return home / "pushed.json"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory, registry: Registry, raw: Path) -> Path:
    return push(registry, raw, tmp_path_factory.mktemp("image"))


def service(directory: Path) -> Path:
    """The configuration of a node with an empty cache of small chunks."""
    path = directory / "overlaybd.json"
    cache = {"cacheType": "file", "cacheDir": str(directory / "cache"), "cacheSizeGB": 1, "refillSize": 65536}
    path.write_text(json.dumps({"cacheConfig": cache, "prefetchConfig": {"concurrency": 4}}))
    return path


def config(directory: Path, pushed: Path, **more: object) -> Path:
    path = directory / "config.v1.json"
    path.write_text(json.dumps({**json.loads(pushed.read_text()), **more}))
    return path


def requests(device: Device) -> int:
    """How often the registry was asked for a part of the layer."""
    return int(device.statistics()["layers"][0]["requests"])


def replayed(device: Device) -> dict[str, object]:
    """What a replay says of itself once it is done."""
    assert isinstance(device.prefetch, Replay) and device.prefetch.wait(WAIT_S)
    stats = device.prefetch.stats()
    assert stats["done"] and not stats["failed"], stats
    return stats


def read_all(device: Device, raw: Path) -> None:
    with raw.open("rb") as file:
        for offset, length in READS:
            assert device.read(offset, length) == os.pread(file.fileno(), length, offset)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory, pushed: Path) -> Path:
    """A trace recorded the way upstream's client has it done."""
    home = tmp_path_factory.mktemp("record")
    trace, lock, finished = (home / name for name in ("trace", "trace.lock", "trace.ok"))
    trace.touch()
    image = config(home, pushed, recordTracePath=str(trace))
    with serving(image, "--nbd", "127.0.0.1:0", "--service", service(home)) as (_, uri):
        assert lock.exists()
        for offset, length in READS:
            read = ["qemu-io", "-r", "-f", "raw", "-c", f"read {offset} {length}", uri]
            subprocess.run(read, check=True, capture_output=True)
        assert trace.stat().st_size == 0
        lock.unlink()
        deadline = time.monotonic() + WAIT_S
        while not finished.exists():
            assert time.monotonic() < deadline, "no trace.ok"
            time.sleep(0.05)
    return trace


def test_what_was_read_is_recorded(trace: Path) -> None:
    records = trace_ref.read(trace.read_bytes())
    assert {layer for layer, _, _ in records} == {0}
    read = sum(length for _, _, length in records)
    wanted = sum(length for _, length in READS)
    assert wanted <= read < wanted + MIB // 2, "what was read, and the layer's own index"
    assert len(records) < 30, "neighbours are one record"


def test_after_a_replay_the_same_reads_ask_nobody(tmp_path: Path, raw: Path, trace: Path) -> None:
    with Registry(tmp_path / "registry") as registry:
        image = config(tmp_path, push(registry, raw, tmp_path), recordTracePath=str(trace))
        host = Service(service(tmp_path))
        with obd.open(image, host) as device:
            stats = replayed(device)
            host.cache().flush()  # who reads from memory what is to be written yet has more read ahead
            assert not stats["skipped"] and not device.recording
            before = requests(device)
            registry.stop()
            read_all(device, raw)
            assert requests(device) == before > 0
            # No more than what the trace names, with the chunks around it, has been fetched.
            fetched = device.statistics()["layers"][0]["fetched_bytes"]
            assert sum(length for _, length in READS) < fetched < 4 * MIB
    assert trace_ref.read(trace.read_bytes()), "the trace stays as it is"


def test_the_trace_of_the_acceleration_layer_is_replayed(
    tmp_path: Path, pushed: Path, raw: Path, trace: Path
) -> None:
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs" / "trace").write_bytes(trace.read_bytes())
    lowers = [*json.loads(pushed.read_text())["lowers"], {"dir": str(tmp_path / "fs")}]
    image = config(tmp_path, pushed, lowers=lowers, accelerationLayer=True)
    host = Service(service(tmp_path))
    with obd.open(image, host) as device:
        replayed(device)
        host.cache().flush()
        before = requests(device)
        read_all(device, raw)
        assert requests(device) == before
    (tmp_path / "fs" / "trace").unlink()
    with obd.open(image, service(tmp_path)) as device:
        assert device.prefetch is None, "without a trace there is nothing to do"


def test_an_acceleration_layer_that_only_the_registry_has(
    tmp_path: Path, registry: Registry, pushed: Path, raw: Path, trace: Path
) -> None:
    with tarfile.open(tmp_path / "layer", "w") as tar:
        info = tarfile.TarInfo("trace")
        info.size = trace.stat().st_size
        tar.addfile(info, io.BytesIO(trace.read_bytes()))
    ok("obd", "push", tmp_path / "layer", "--to", f"{registry.host}/a:trace", "--config", tmp_path / "c.json")
    document, layer = (json.loads(path.read_text()) for path in (pushed, tmp_path / "c.json"))
    lowers = [*document["lowers"], *layer["lowers"]]
    image = config(tmp_path, pushed, lowers=lowers, accelerationLayer=True)
    host = Service(service(tmp_path))
    with obd.open(image, host) as device:
        replayed(device)
        host.cache().flush()
        before = requests(device)
        read_all(device, raw)
        assert requests(device) == before


def test_a_device_closes_in_the_midst_of_a_replay(tmp_path: Path, pushed: Path, trace: Path) -> None:
    everything = tmp_path / "everything"
    everything.write_bytes(trace_ref.write([(0, 0, DISK_BYTES)]))
    with obd.open(config(tmp_path, pushed, recordTracePath=str(everything)), service(tmp_path)) as device:
        prefetch = device.prefetch
    assert prefetch is not None and prefetch.wait(WAIT_S)


def test_both_ways_to_a_trace_are_an_error_that_the_result_file_explains(
    tmp_path: Path, pushed: Path
) -> None:
    image = config(
        tmp_path, pushed, accelerationLayer=True, recordTracePath="/t", resultFile=str(tmp_path / "result")
    )
    with pytest.raises(OSError, match="only one of the two"):
        obd.open(image, service(tmp_path))
    assert (tmp_path / "result").read_text().startswith("failed:invalid: ")
    assert "accelerationLayer and recordTracePath: only one" in (tmp_path / "result").read_text()
