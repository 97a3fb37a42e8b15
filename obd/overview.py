"""What a process has open, and what it counts: the one place where metrics and `obd stat` look."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import obdcore
from obd.caches import open_caches

if TYPE_CHECKING:
    from obd.image import Device
    from obd.service import Service

# What `stat` says of a histogram.
QUANTILES: Final = (0.5, 0.99)


@dataclass(frozen=True, slots=True)
class Entry:
    """An open device: its name in the process, where it is served, and the image it is made of.

    `dev_id` is the name that whoever attached it gave it for the management interface, "" if none.
    """

    name: str
    where: str | Callable[[], str]
    device: Device
    dev_id: str = ""

    @property
    def address(self) -> str:
        """Where it is served, now."""
        return self.where if isinstance(self.where, str) else self.where()

    @property
    def image(self) -> str:
        """The image configuration's path."""
        return self.device.config.file


class Overview:
    """The devices of a process. Safe for use by several threads."""

    def __init__(self, service: Service, command: str) -> None:
        """`command` is what the process was started as, for people (`obd serve`)."""
        self.service: Final = service
        self.command: Final = command
        self.started_at: Final = time.time()
        self._entries: Final[dict[str, Entry]] = {}
        self._lock: Final = threading.Lock()

    def add(self, name: str, device: Device, address: str | Callable[[], str], dev_id: str = "") -> None:
        """A device was opened. One of the same name is replaced. An `address` may change: it is asked for."""
        with self._lock:
            self._entries[name] = Entry(name, address, device, dev_id)

    def remove(self, name: str) -> None:
        """A device is about to be closed."""
        with self._lock:
            self._entries.pop(name, None)

    def entries(self) -> list[Entry]:
        """The devices, in the order of their names."""
        with self._lock:
            return [self._entries[name] for name in sorted(self._entries)]

    def devices(self) -> list[tuple[Entry, dict[str, Any], dict[str, obdcore.Histogram]]]:
        """Each device with its statistics and latencies; one that is closing meanwhile is left out."""
        found = []
        for entry in self.entries():
            try:
                found.append((entry, entry.device.statistics(), entry.device.native.latency()))
            except OSError:
                continue
        return found

    def caches(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Directory and counters of each chunk cache of the process."""
        for directory, (cache, capacity_bytes) in open_caches().items():
            yield directory, {**cache.stats(), "capacity_bytes": capacity_bytes}

    def stat(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "version": obdcore.__version__,
            "pid": os.getpid(),
            "command": self.command,
            "uptime_s": round(time.time() - self.started_at, 3),
            "devices": [_device(*found) for found in self.devices()],
            "caches": [{"directory": directory, **counters} for directory, counters in self.caches()],
            "remote": _remote(),
        }

    def list(self) -> list[dict[str, Any]]:
        """What each device is, for JSON."""
        found = []
        for entry in self.entries():
            # One that is closing meanwhile is left out.
            with suppress(OSError):
                found.append(_facts(entry))
        return found

    def one(self, entry: Entry) -> dict[str, Any]:
        """All about a device, for JSON. Raises `OSError` if it is closed."""
        return _device(entry, entry.device.statistics(), entry.device.native.latency())


def _facts(entry: Entry) -> dict[str, Any]:
    device = entry.device
    return {
        "name": entry.name,
        "dev_id": entry.dev_id,
        "address": entry.address,
        "image": entry.image,
        "size": device.size,
        "read_only": device.read_only,
        "recording": device.native.recording,
    }


def _device(
    entry: Entry, statistics: dict[str, Any], latency: dict[str, obdcore.Histogram]
) -> dict[str, Any]:
    device = entry.device
    layers = [
        {"position": source.position, "state": _state(device, source.position), **layer}
        # A snapshot may have added one meanwhile.
        for source, layer in zip(device.sources, statistics["layers"], strict=False)
    ]
    return {
        **_facts(entry),
        **statistics,
        "layers": layers,
        "latency": {cause: summary(histogram) for cause, histogram in latency.items()},
    }


def _state(device: Device, position: int) -> str:
    """How a layer is read: from a local file, from a registry, or from a file that took over."""
    blobs = [blob for blob in device.remote(position) if blob is not None]
    if not blobs:
        return "local"
    return "switched" if all(blob.local for blob in blobs) else "remote"


def _remote() -> dict[str, Any]:
    traffic = obdcore.remote_traffic()
    return {**traffic, "latency": summary(traffic["latency"])}


def summary(histogram: obdcore.Histogram) -> dict[str, float | None]:
    """Count, seconds in all, and for each of `QUANTILES` the bound that so many were below (None: none)."""
    buckets, total_s = histogram
    count = buckets[-1][1]
    found: dict[str, float | None] = {"count": count, "total_s": round(total_s, 6)}
    for quantile in QUANTILES:
        bound = next((bound for bound, below in buckets if count and below >= quantile * count), 0.0)
        found[f"p{100 * quantile:g}_s"] = bound if bound != float("inf") else None
    return found
