"""The routes of the devices of this process: list, one, snapshot, resize, trace."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from obd.api.routes import Call, Routes
from obd.config.errors import shown
from obd.config.schema import U64, Table, flag, integer, text
from obd.errors import ObdError
from obd.http_server import Answer

if TYPE_CHECKING:
    from obd.api.work import Works
    from obd.overview import Entry, Overview
    from obd.snapshot import Taken

_log: Final = logging.getLogger("overlaybd.api")

# Stands for the name of the only device of a process: that of `obd serve` is usually empty.
ONLY: Final = "-"
BINARY: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Table):
    """The new upper: a configuration that has it and replaces the device's own, or its two files."""

    config: str = text("config")
    data: str = text("data")
    index: str = text("index")
    sparse: bool = flag("sparse", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize(Table):
    """The new size."""

    size_bytes: int = integer("size_bytes", 0, 0, U64)


class Devices:
    """Answers for the devices of `overview`."""

    def __init__(self, overview: Overview, works: Works) -> None:
        self._overview: Final = overview
        self._works: Final = works

    def add_to(self, routes: Routes) -> None:
        """Adds the routes."""
        one = "/v1/devices/{device}"
        routes.add("GET", "/v1/devices", lambda call: {"devices": self._overview.list()})
        routes.add("GET", one, lambda call: self._overview.one(self._entry(call)))
        routes.add("POST", f"{one}/snapshot", self._snapshot)
        routes.add("POST", f"{one}/resize", self._resize)
        routes.add("GET", f"{one}/trace", self._trace)
        routes.add("POST", f"{one}/trace/start", self._start_trace)
        routes.add("POST", f"{one}/trace/stop", self._stop_trace)

    def _entry(self, call: Call) -> Entry:
        name = call.values["device"]
        entries = self._overview.entries()
        found = [entry for entry in entries if name == entry.name]
        if not found and name == ONLY:
            if len(entries) != 1:
                raise ObdError("not-found", f"there are {len(entries)} devices: a name has to say which")
            found = entries
        if not found:
            raise ObdError("not-found", f"no device {name!r}")
        return found[0]

    def snapshot_to(self, entry: Entry, config: str) -> dict[str, Any]:
        """A live snapshot of a device to what the configuration at the path `config` describes."""
        device = entry.device
        return _told(entry, self._works.do(lambda: device.snapshot_to(config), device))

    def _snapshot(self, call: Call) -> dict[str, Any]:
        entry, wanted = self._entry(call), call.body(Snapshot)
        config, data, index = wanted.config, wanted.data, wanted.index
        for path in (config, data, index):
            if path and not path.startswith("/"):
                raise ObdError(
                    "invalid", f"body: {shown(path)} must begin with /: it is this process's to find"
                )
        if config and not data and not index and not wanted.sparse:
            return self.snapshot_to(entry, config)
        if config or not data or not index:
            raise ObdError("invalid", "body: either config, or data and index")
        device = entry.device
        return _told(
            entry, self._works.do(lambda: device.snapshot(data, index, sparse=wanted.sparse), device)
        )

    def _resize(self, call: Call) -> dict[str, Any]:
        entry, size_bytes = self._entry(call), call.body(Resize).size_bytes
        device = entry.device
        if not size_bytes:
            raise ObdError("invalid", "body: size_bytes is missing")

        def resize() -> int:
            before = device.size
            device.resize(size_bytes)
            return before

        before = self._works.do(resize, device)
        _log.info("%s: %d bytes now, %d before", entry.name, device.size, before)
        return {"device": entry.name, "size_bytes": device.size, "before_bytes": before}

    def _trace(self, call: Call) -> Answer:
        data, _ = self._entry(call).device.native.recorded()
        return Answer(200, data, BINARY)

    def _start_trace(self, call: Call) -> object:
        self._entry(call).device.native.start_recording()
        return {"recording": True}

    def _stop_trace(self, call: Call) -> Answer:
        """The answer's body is the trace file."""
        return Answer(200, self._entry(call).device.native.stop_recording(), BINARY)


def _told(entry: Entry, taken: Taken) -> dict[str, Any]:
    if not taken.repeated:
        waited_ms = 1000 * taken.pause_s
        _log.info("%s: snapshot: %s is sealed, writes waited %.1f ms", entry.name, taken.sealed, waited_ms)
    return {
        "device": entry.name,
        "sealed": taken.sealed,
        "pause_s": taken.pause_s,
        "segments": taken.segments,
        "repeated": taken.repeated,
    }
