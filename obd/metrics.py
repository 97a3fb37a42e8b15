"""Prometheus metrics of a process, made from its counters when somebody asks."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

import obdcore
from obd import audit

if TYPE_CHECKING:
    from obd.overview import Overview

# Upstream's text format, whatever newer ones the library speaks.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# How long upstream's longest latency looks back: this window and the one before.
PEAK_WINDOW_S: Final = 5.0

_DEVICE: Final = ("device", "image")
# Counters of a device: key in its statistics, name, help.
_COUNTERS: Final = (
    ("reads", "overlaybd_reads", "Reads that a device answered."),
    ("read_bytes", "overlaybd_read_bytes", "Bytes read from a device."),
    ("writes", "overlaybd_writes", "Writes to a device."),
    ("written_bytes", "overlaybd_written_bytes", "Bytes written to a device."),
    ("discards", "overlaybd_discards", "Discards of a device."),
    ("flushes", "overlaybd_flushes", "Flushes of a device."),
    ("errors", "overlaybd_errors", "Requests that a device failed: its user saw EIO."),
)
_LAYER_COUNTERS: Final = (
    ("requests", "overlaybd_fetch_requests", "Requests to registries for a device, repetitions included."),
    ("fetched_bytes", "overlaybd_fetch_bytes", "Bytes that these brought."),
    ("mismatches", "overlaybd_fetch_mismatches", "Answers thrown away: they did not match the hash tree."),
)
_CACHE_COUNTERS: Final = (
    ("hits", "overlaybd_cache_hits", "Reads that the cache answered alone."),
    ("misses", "overlaybd_cache_misses", "Reads that had to wait for a fetch."),
    ("fetches", "overlaybd_cache_fetches", "Fetches into the cache."),
    ("fetched_bytes", "overlaybd_cache_fetched_bytes", "Bytes that these brought."),
    ("evictions", "overlaybd_cache_evictions", "Chunks dropped to make room."),
    ("repairs", "overlaybd_cache_repairs", "Chunks found wrong, dropped and fetched again."),
    ("mismatches", "overlaybd_cache_mismatches", "Leaves in the cache that did not match the hash tree."),
    ("uncached", "overlaybd_cache_uncached", "Fetches whose bytes could not be kept."),
)
_CACHE_GAUGES: Final = (
    ("used_bytes", "overlaybd_cache_used_bytes", "Bytes that the cache takes on disk."),
    ("capacity_bytes", "overlaybd_cache_capacity_bytes", "Bytes that the cache may take."),
)
_PREFETCH: Final = (
    ("pieces", "overlaybd_prefetch_pieces", "Ranges of a trace or list that are there."),
    ("fetched_bytes", "overlaybd_prefetch_bytes", "Bytes that were fetched in advance for them."),
    ("failed", "overlaybd_prefetch_failures", "Ranges that could not be fetched in advance."),
)


class Metrics:
    """What `GET /metrics` answers."""

    def __init__(self, overview: Overview, *, legacy: bool) -> None:
        """`legacy`: upstream's metrics as well."""
        self._registry: Final = CollectorRegistry(auto_describe=False)
        self._legacy: Final = Legacy(overview) if legacy else None
        self._registry.register(_Core(overview))
        if self._legacy is not None:
            self._registry.register(self._legacy)
        ProcessCollector(registry=self._registry)

    def tick(self) -> None:
        """To be called about once a second: upstream's metrics are rates."""
        if self._legacy is not None:
            self._legacy.tick()

    def text(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Core(Collector):
    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("overlaybd_build", "The program.", {"version": obdcore.__version__})
        found = self._overview.devices()
        yield GaugeMetricFamily("overlaybd_devices", "Open devices.", len(found))
        size = GaugeMetricFamily("overlaybd_device_size_bytes", "Size of a device.", labels=_DEVICE)
        latency = HistogramMetricFamily(
            "overlaybd_read_seconds", "Where the time of a device's reads went.", labels=(*_DEVICE, "cause")
        )
        counters = _families(_COUNTERS, _DEVICE)
        fetched = _families(_LAYER_COUNTERS, _DEVICE)
        retries = CounterMetricFamily(
            "overlaybd_fetch_retries",
            "Requests to registries that failed, and were repeated or given up.",
            labels=(*_DEVICE, "status"),
        )
        prefetch = _families(_PREFETCH, _DEVICE)
        for entry, statistics, histograms in found:
            labels = (entry.name, entry.image)
            size.add_metric(labels, entry.device.size)
            for cause, histogram in histograms.items():
                _add_histogram(latency, (*labels, cause), histogram)
            for key, family in counters.items():
                family.add_metric(labels, statistics[key])
            for key, family in fetched.items():
                family.add_metric(labels, sum(blob.get(key, 0) for _, blob in _blobs(statistics)))
            statuses: Counter[int] = Counter()
            for _, blob in _blobs(statistics):
                statuses.update(blob.get("statuses", {}))
            for status, count in sorted(statuses.items()):
                retries.add_metric((*labels, str(status) if status else "none"), count)
            for key, family in prefetch.items():
                if key in statistics.get("prefetch", {}):
                    family.add_metric(labels, statistics["prefetch"][key])
        yield from (size, latency, *counters.values(), *fetched.values(), retries, *prefetch.values())
        yield from _download([(entry.name, entry.image, statistics) for entry, statistics, _ in found])
        yield from self._caches()
        yield from _remote()
        yield CounterMetricFamily(
            "overlaybd_audit_dropped", "Events that did not get into the audit log.", audit.dropped()
        )

    def _caches(self) -> Iterator[Metric]:
        counters = _families(_CACHE_COUNTERS, ("directory",))
        gauges = {
            key: GaugeMetricFamily(name, text, labels=("directory",)) for key, name, text in _CACHE_GAUGES
        }
        for directory, values in self._overview.caches():
            for key, counter in counters.items():
                counter.add_metric((directory,), values[key])
            for key, gauge in gauges.items():
                gauge.add_metric((directory,), values[key])
        yield from (*counters.values(), *gauges.values())


def _families(
    table: tuple[tuple[str, str, str], ...], labels: tuple[str, ...]
) -> dict[str, CounterMetricFamily]:
    return {key: CounterMetricFamily(name, text, labels=labels) for key, name, text in table}


def _add_histogram(
    family: HistogramMetricFamily, labels: tuple[str, ...], histogram: obdcore.Histogram
) -> None:
    buckets, total_s = histogram
    named = [("+Inf" if bound == float("inf") else repr(bound), count) for bound, count in buckets]
    family.add_metric(labels, named, total_s)


def _download(found: list[tuple[str, str, dict[str, Any]]]) -> Iterator[Metric]:
    labels = (*_DEVICE, "layer")
    done = GaugeMetricFamily("overlaybd_download_bytes", "Bytes of a layer downloaded so far.", labels=labels)
    state = GaugeMetricFamily(
        "overlaybd_download_state",
        "1 for the state that a layer's download is in.",
        labels=(*labels, "state"),
    )
    for name, image, statistics in found:
        for number, blob in _blobs(statistics):
            if "download" in blob:
                done.add_metric((name, image, number), blob["download"]["done_bytes"])
                state.add_metric((name, image, number, blob["download"]["state"]), 1)
    yield from (done, state)


def _blobs(statistics: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The layers of a device by their positions, and the targets of those of turboOCI as `0-target`."""
    for position, layer in enumerate(statistics["layers"]):
        yield str(position), layer
        if "target" in layer:
            yield f"{position}-target", layer["target"]


def _remote() -> Iterator[Metric]:
    traffic = obdcore.remote_traffic()
    buckets = HistogramMetricFamily(
        "overlaybd_remote_read_seconds", "Reads from registries and proxies, repetitions included.", labels=()
    )
    _add_histogram(buckets, (), traffic["latency"])
    yield buckets
    yield CounterMetricFamily("overlaybd_remote_read_bytes", "Bytes that these brought.", traffic["bytes"])
    yield CounterMetricFamily(
        "overlaybd_remote_read_errors", "Those that failed for good.", traffic["errors"]
    )


class Legacy(Collector):
    """Upstream's metrics by their names, with the labels that were meant: the host, and what is read.

    Type `pread` is what devices read, `download` what comes from registries and proxies.
    """

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._node = socket.gethostname()
        self._lock = threading.Lock()
        self._last = (time.monotonic(), self._totals())
        self._rates = dict.fromkeys(self._last[1], (0.0, 0.0))
        self._peaks = [(0.0, 0.0), obdcore.take_peaks()]
        self._window_ends = time.monotonic() + PEAK_WINDOW_S

    def _totals(self) -> dict[str, tuple[int, int]]:
        """Count and bytes by type."""
        traffic = obdcore.remote_traffic()
        count = bytes_ = 0
        for _, statistics, _ in self._overview.devices():
            count += statistics["reads"]
            bytes_ += statistics["read_bytes"]
        return {"pread": (count, bytes_), "download": (traffic["latency"][0][-1][1], traffic["bytes"])}

    def tick(self) -> None:
        """Takes a sample. Rates are those between the last two."""
        now, totals = time.monotonic(), self._totals()
        peaks = obdcore.take_peaks()
        with self._lock:
            then, before = self._last
            span = max(now - then, 0.001)
            for kind, (count, bytes_) in totals.items():
                # A device that was closed takes its counts along.
                rate = (max(count - before[kind][0], 0) / span, max(bytes_ - before[kind][1], 0) / span)
                self._rates[kind] = rate
            self._last = (now, totals)
            if now >= self._window_ends:
                self._peaks = [self._peaks[1], (0.0, 0.0)]
                self._window_ends = now + PEAK_WINDOW_S
            self._peaks[1] = (max(self._peaks[1][0], peaks[0]), max(self._peaks[1][1], peaks[1]))

    def collect(self) -> Iterator[Metric]:
        """The families, in upstream's order."""
        alive = GaugeMetricFamily("OverlayBD_Alive", "", labels=("node",))
        alive.add_metric((self._node,), 1)
        labels = ("node", "type")
        throughput = GaugeMetricFamily("OverlayBD_Read_Throughtput", "Bytes / sec", labels=labels)
        qps = GaugeMetricFamily("OverlayBD_QPS", "", labels=labels)
        latency = GaugeMetricFamily("OverlayBD_MaxLatency", "us", labels=labels)
        count = GaugeMetricFamily("OverlayBD_Count", "Bytes", labels=labels)
        totals = self._totals()
        with self._lock:
            for number, kind in enumerate(totals):
                of = (self._node, kind)
                throughput.add_metric(of, self._rates[kind][1])
                qps.add_metric(of, self._rates[kind][0])
                latency.add_metric(of, round(1e6 * max(peak[number] for peak in self._peaks)))
                count.add_metric(of, totals[kind][1])
        yield from (alive, throughput, qps, latency, count)
