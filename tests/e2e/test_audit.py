"""The audit log of a process that reads from a real registry; and what `obd stat` says of such an image."""

import json
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import obdcore
from obd.audit import Audit, lines, start_audit
from obd.config import ServiceConfig
from obd.logs import Stamp
from obd.push import Repository
from obd.registry import Registry
from obd.sockets import ask, statistics
from tests.e2e import servers
from tests.e2e.commands import START_S, ok, serving
from tests.rigs.attached import until

pytestmark = pytest.mark.usefixtures("run_directory")

SIZE = 6 << 20
LINE = re.compile(
    r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6}\|AUDIT\|th=[0-9A-F]{16}\|([a-z_:]+)((?:\[\w+=[^\]]*\])+)"
)
MEMBER = re.compile(r"\[(\w+)=([^\]]*)\]")
ACCESS = ["pathname", "offset", "size", "latency"]


def records(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Names and members of all lines; each line must be one of the format."""
    found = []
    for line in path.read_text().splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        found.append((match[1], dict(MEMBER.findall(match[2]))))
    return found


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Registry]:
    with servers.Registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def image(tmp_path: Path, registry: servers.Registry) -> Path:
    """The configuration of an image of one layer in the registry."""
    (tmp_path / "raw").write_bytes(random.Random(7).randbytes(SIZE))
    ok("obd", "import", "-z", tmp_path / "raw", tmp_path / "pushed")
    repository = Repository(Registry(), registry.repository("a/b"))
    digest = repository.push_file(str(tmp_path / "pushed")).digest
    lower = {"digest": digest, "size": (tmp_path / "pushed").stat().st_size}
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"repoBlobUrl": registry.repository("a/b") + "/blobs", "lowers": [lower]}))
    return path


def service(directory: Path, **content: Any) -> Path:
    path = directory / "overlaybd.json"
    cache = {"cacheType": "file", "cacheDir": str(directory / "cache"), "cacheSizeGB": 1}
    path.write_text(json.dumps({"cacheConfig": cache, "auditPath": str(directory / "audit.log"), **content}))
    return path


def test_every_access_to_the_registry_is_a_line(tmp_path: Path, image: Path) -> None:
    document = json.loads(image.read_text())
    url = f"{document['repoBlobUrl']}/{document['lowers'][0]['digest']}"
    with serving(image, "--nbd", f"unix:{tmp_path / 's'}", "--service", service(tmp_path)) as (process, uri):
        for _ in range(2):
            command = ["qemu-io", "-r", "-f", "raw", "-c", f"read 0 {SIZE}", uri]
            subprocess.run(command, check=True, capture_output=True)
            # What was fetched is written a moment later.
            until(lambda: statistics(process.pid)["caches"][0]["used_bytes"] > SIZE // 2, "nothing is kept")
        stat = statistics(process.pid)
        metrics = ask(process.pid, "GET", "/v1/metrics").decode()
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0
        assert process.stderr is not None and process.stderr.read() == b""
    found = [members for name, members in records(tmp_path / "audit.log") if name == "download"]
    assert found and all(list(members) == ACCESS for members in found)
    assert {members["pathname"] for members in found} == {f"/{url}"}
    ranges = sorted((int(members["offset"]), int(members["size"])) for members in found)
    fetched = {at for offset, size in ranges for at in range(offset, offset + size, 4096)}
    assert len(fetched) * 4096 >= document["lowers"][0]["size"] - (1 << 20), "nearly all of it was read"
    assert sum(size for _, size in ranges) <= document["lowers"][0]["size"], "and nothing twice"
    assert all(int(members["latency"]) > 0 for members in found)

    (layer,) = stat["devices"][0]["layers"]
    assert layer["state"] == "remote" and layer["source"] == url and layer["requests"] > 0
    assert stat["devices"][0]["latency"]["network"]["count"] > 0
    assert stat["remote"]["bytes"] == sum(size for _, size in ranges) == layer["fetched_bytes"]
    (cache,) = stat["caches"]
    assert cache["directory"] == str(tmp_path / "cache") and cache["capacity_bytes"] == 1 << 30
    assert cache["misses"] > 0 and cache["hits"] > 0
    families = {family.name: family for family in text_string_to_metric_families(metrics)}
    (hits,) = (s for s in families["overlaybd_cache_hits"].samples if s.name.endswith("_total"))
    assert (hits.labels, hits.value) == ({"directory": cache["directory"]}, cache["hits"])
    (fetched_bytes,) = (s for s in families["overlaybd_fetch_bytes"].samples if s.name.endswith("_total"))
    assert fetched_bytes.value == layer["fetched_bytes"]


def test_a_log_that_cannot_be_opened_is_said(tmp_path: Path, image: Path) -> None:
    nowhere = service(tmp_path, auditPath="/proc/no/audit.log")
    with serving(image, "--nbd", f"unix:{tmp_path / 's'}", "--service", nowhere) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0
        assert process.stderr is not None
        (line,) = process.stderr.read().decode().splitlines()
    assert line == "WARNING: auditPath /proc/no/audit.log: no audit log is written: No such file or directory"


@pytest.mark.parametrize("settings", [{"enable_audit": False}, {"audit_path": ""}])
def test_a_log_that_is_not_wanted_is_not_written(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert start_audit(ServiceConfig(**{"audit_path": str(tmp_path / "log"), **settings})) is None
    assert list(tmp_path.iterdir()) == []


def test_lines_are_upstreams_and_hold_no_secrets() -> None:
    url = "https://r.example/v2/a/blobs/sha256:ab?X-Amz-Signature=secret"
    access = {"pathname": url, "offset": 4096, "size": -1, "latency": 1234}
    room = {"actualEvict": 1, "evictByCache": 2, "evictByDisk": 3, "totalUsed_": 4}
    local = {"pathname": "", "offset": 0, "size": 512, "latency": 1500}
    at = 1_700_000_000.5
    first, second, third = lines(
        [(at, 0x7F1B_B2AC_A400, "download", access), (at, 1, "eviction", room), (at, 2, "file:read", local)],
        Stamp(),
    )
    shown = "[pathname=/https://r.example/v2/a/blobs/sha256:ab][offset=4096][size=-1][latency=1234]\n"
    assert re.fullmatch(
        r"2023/11/1\d \d\d:\d\d:\d\d\.500000\|AUDIT\|th=00007F1BB2ACA400\|download.*\n", first
    )
    assert first.endswith(f"|download{shown}")
    assert second.endswith("|eviction[actualEvict=1][evictByCache=2][evictByDisk=3][totalUsed_=4]\n")
    assert third.endswith("|file:read[pathname=][offset=0][size=512][latency=1500]\n")


def test_what_happened_before_the_end_is_in_the_log(
    tmp_path: Path, registry: servers.Registry, image: Path
) -> None:
    audit = Audit(str(tmp_path / "log"))
    document = json.loads(image.read_text())
    digest = document["lowers"][0]["digest"]
    blob = Registry().open_blob(f"{document['repoBlobUrl']}/{digest}", size=document["lowers"][0]["size"])
    blob.read_at(4096, 8192)
    audit.stop()
    audit.stop()
    names = [(name, members["offset"], members["size"]) for name, members in records(tmp_path / "log")]
    assert names == [("download", "4096", "8192")]
    assert obdcore.audit_take() == ([], 0)


def test_downloads_and_evictions_have_records_of_their_own(
    tmp_path: Path, registry: servers.Registry, image: Path
) -> None:
    document = json.loads(image.read_text())
    (lower,) = document["lowers"]
    url = f"{document['repoBlobUrl']}/{lower['digest']}"
    audit = Audit(str(tmp_path / "log"))
    # Room for a part of the layer only: what was read first has to go.
    cache = obdcore.ChunkCache(str(tmp_path / "small"), 2 << 20, 65536, min_free_bytes=0)
    blob = Registry().open_blob(url, size=lower["size"], cache=cache)
    for offset in range(0, lower["size"] - (1 << 20), 1 << 20):
        blob.read_at(offset, 1 << 20)
    cache.flush()
    buffer = bytearray(1 << 20)
    assert blob.copy_into(buffer, 0) == len(buffer)
    audit.stop()
    found = records(tmp_path / "log")
    evictions = [members for name, members in found if name == "eviction"]
    assert evictions
    for members in evictions:
        assert list(members) == ["actualEvict", "evictByCache", "evictByDisk", "totalUsed_"]
        assert int(members["actualEvict"]) > 0 and int(members["evictByCache"]) > 0
        assert members["evictByDisk"] == "0"
    steps = [members for name, members in found if name == "bk_download"]
    assert steps and {members["pathname"] for members in steps} == {f"/{url}"}
    assert sum(int(members["size"]) for members in steps) <= len(buffer)
