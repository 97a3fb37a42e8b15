"""What is counted of containerd's calls, under the names that upstream's dashboards know."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS: Final = tuple(0.0001 * 2**power for power in range(20))


@dataclass
class Call:
    """One call while it lasts."""

    failed: bool = False


class Calls:
    """Counters and latencies of the service's methods, and how many snapshots and devices there are."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        self._latency: Final = Histogram(
            "grpc_latency_seconds", "Time of a call.", ["function"], buckets=_BUCKETS, registry=self.registry
        )
        self._errors: Final = Counter(
            "grpc_error_count", "Calls that failed.", ["function"], registry=self.registry
        )
        Gauge("is_alive", "1 while the snapshotter runs.", registry=self.registry).set(1)

    @contextmanager
    def timed(self, function: str) -> Iterator[Call]:
        """Counts what happens within."""
        call, began = Call(), time.monotonic()
        try:
            yield call
        finally:
            self._latency.labels(function).observe(time.monotonic() - began)
            if call.failed:
                self._errors.labels(function).inc()

    def text(self) -> bytes:
        """All of it for Prometheus."""
        return generate_latest(self.registry)
