"""Metrics: the names that dashboards know, and numbers that are those of the device."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

import obd
from obd.metrics import Metrics
from obd.overview import Overview, summary
from obd.service import Service
from tests.e2e.commands import place

NAMES = """
counter overlaybd: reads read_bytes writes written_bytes discards flushes errors fetch_requests fetch_bytes
counter overlaybd: fetch_retries cache_hits cache_misses cache_fetches cache_fetched_bytes cache_evictions
counter overlaybd: cache_repairs cache_uncached prefetch_pieces prefetch_bytes prefetch_failures
counter overlaybd: remote_read_bytes remote_read_errors audit_dropped fetch_mismatches cache_mismatches
gauge overlaybd: build_info devices device_size_bytes download_bytes download_state
gauge overlaybd: cache_used_bytes cache_capacity_bytes
histogram overlaybd: read_seconds remote_read_seconds
gauge OverlayBD: Alive Read_Throughtput QPS MaxLatency Count
counter process: cpu_seconds
gauge process: virtual_memory_bytes resident_memory_bytes start_time_seconds open_fds max_fds
"""
EXPECTED = {
    f"{prefix}_{name}": kind
    for kind, prefix, names in re.findall(r"(\w+) (\w+): (.*)", NAMES)
    for name in names.split()
}


@pytest.fixture
def overview(tmp_path: Path) -> Iterator[Overview]:
    """An overview of one open device, a.commit."""
    place(tmp_path, "lsmt/a.commit")
    config = tmp_path / "config.v1.json"
    config.write_text(json.dumps({"lowers": [{"file": str(tmp_path / "a.commit")}]}))
    (tmp_path / "overlaybd.json").write_text("{}")
    service = Service(tmp_path / "overlaybd.json")
    with obd.open(config, service) as device:
        overview = Overview(service, "test")
        overview.add("disk", device, "nbd://here")
        yield overview


def families(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}


def test_names_and_types(overview: Overview) -> None:
    found = families(Metrics(overview, legacy=True))
    assert {name: family.type for name, family in found.items()} == EXPECTED
    without = families(Metrics(overview, legacy=False))
    assert set(without) == {name for name in EXPECTED if not name.startswith("OverlayBD")}


def test_numbers_are_those_of_the_device(overview: Overview) -> None:
    metrics = Metrics(overview, legacy=True)
    ((entry, _, _),) = overview.devices()
    # Of a thread's first reads so many are timed that their number comes out right.
    reader = threading.Thread(target=lambda: [entry.device.read(4096, 8192) for _ in range(3)])
    reader.start()
    reader.join()
    with pytest.raises(OSError):
        entry.device.read(entry.device.size - 512, 1024)
    metrics.tick()
    found = families(metrics)
    labels = {"device": "disk", "image": entry.image}

    def value(name: str, sample: str, **more: str) -> float:
        return next(
            s.value for s in found[name].samples if s.name == sample and s.labels == {**labels, **more}
        )

    assert value("overlaybd_reads", "overlaybd_reads_total") == 3
    assert value("overlaybd_read_bytes", "overlaybd_read_bytes_total") == 3 * 8192
    assert value("overlaybd_device_size_bytes", "overlaybd_device_size_bytes") == entry.device.size
    hits = value("overlaybd_read_seconds", "overlaybd_read_seconds_bucket", cause="hit", le="+Inf")
    assert hits == 3
    old = {(s.name, *sorted(s.labels.items())): s.value for name in found for s in found[name].samples}
    node = ("node", socket.gethostname())
    assert old["OverlayBD_Alive", node] == 1
    assert old["OverlayBD_Count", node, ("type", "pread")] == 3 * 8192
    assert old["OverlayBD_QPS", node, ("type", "pread")] > 0
    assert old["OverlayBD_Read_Throughtput", node, ("type", "pread")] > 0
    assert ("OverlayBD_MaxLatency", node, ("type", "download")) in old


def test_a_closed_device_is_left_out(overview: Overview) -> None:
    ((entry, _, _),) = overview.devices()
    entry.device.close()
    assert overview.devices() == []
    assert overview.stat()["devices"] == []
    found = families(Metrics(overview, legacy=True))
    assert found["overlaybd_devices"].samples[0].value == 0


def test_quantiles() -> None:
    infinite = float("inf")
    assert summary(([(0.1, 0), (infinite, 0)], 0.0)) == {"count": 0, "total_s": 0, "p50_s": 0, "p99_s": 0}
    seen = summary(([(0.1, 50), (0.2, 98), (infinite, 100)], 9.0))
    assert seen == {"count": 100, "total_s": 9, "p50_s": 0.1, "p99_s": None}
