"""The routes of devices: list, one, attach, detach, snapshot, resize, trace."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from obd.api.routes import Call, Created, Routes, unsupported
from obd.config.schema import U64, Table, flag, integer, text
from obd.errors import ObdError
from obd.http_server import Answer

if TYPE_CHECKING:
    from obd.image import Device
    from obd.overview import Entry, Overview

# Stands for the name of the only device of a process: that of `obd serve` is usually empty.
ONLY: Final = "-"
# How long a request waits for a change of the same device that is under way.
BUSY_S: Final = 10.0
# How long an answer may take. What is not done by then goes on.
OPERATION_S: Final = 120.0
BINARY: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach(Table):
    """What is to be attached: the path of an image configuration, how, and whether to write."""

    config: str = text("config")
    via: str = text("via", "auto")
    rw: bool = flag("rw", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Table):
    """The new upper: a configuration that has it and replaces the device's own, or its two files."""

    config: str = text("config")
    data: str = text("data")
    index: str = text("index")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize(Table):
    """The new size."""

    size_bytes: int = integer("size_bytes", 0, 0, U64)


class Devices:
    """Answers for the devices of `overview`; `attach` and `detach` are None where there is no such thing."""

    def __init__(self, overview: Overview) -> None:
        self._overview: Final = overview
        self.attach: Callable[[str, str, bool], dict[str, Any]] | None = None
        self.detach: Callable[[str], None] | None = None
        self._locks: Final[weakref.WeakKeyDictionary[Device, threading.Lock]] = weakref.WeakKeyDictionary()
        self._lock: Final = threading.Lock()

    def add_to(self, routes: Routes) -> None:
        """Adds the routes."""
        one = "/v1/devices/{device}"
        routes.add("GET", "/v1/devices", lambda call: {"devices": self._overview.list()})
        routes.add("POST", "/v1/devices", self._attach)
        routes.add("GET", one, lambda call: self._overview.one(self._entry(call)))
        routes.add("DELETE", one, self._detach)
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

    def change(self, device: Device, work: Callable[[], Any]) -> Any:
        """Calls `work` while no other change of `device` is under way; returns or raises what it does.

        Raises `ObdError`: "busy" if another does not end, "timed-out" if this one takes too long; it goes on.
        """
        with self._lock:
            lock = self._locks.setdefault(device, threading.Lock())
        if not lock.acquire(timeout=BUSY_S):
            raise ObdError("busy", "another change of the device is under way", device.config.file)
        outcome: list[Any] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                outcome.append(work())
            except BaseException as error:
                failures.append(error)
            finally:
                lock.release()

        thread = threading.Thread(target=run, name="change", daemon=True)
        thread.start()
        thread.join(OPERATION_S)
        if failures:
            raise failures[0]
        if not outcome:
            raise ObdError("timed-out", f"not done in {OPERATION_S:g} s; it goes on", device.config.file)
        return outcome[0]

    def _attach(self, call: Call) -> Created:
        wanted = call.body(Attach)
        if not wanted.config:
            raise ObdError("invalid", "body: config is missing")
        if self.attach is None:
            raise unsupported("this process attaches no devices")
        return Created(self.attach(wanted.config, wanted.via, wanted.rw))

    def _detach(self, call: Call) -> Answer:
        if self.detach is None:
            raise unsupported("this process detaches no devices")
        self.detach(call.values["device"])
        return Answer(204, b"", "")

    def snapshot_to(self, entry: Entry, config: str) -> dict[str, Any]:
        """A live snapshot of a device: the upper of the configuration at the path `config` goes on top."""
        raise unsupported("live snapshots")

    def _snapshot(self, call: Call) -> dict[str, Any]:
        raise unsupported("live snapshots")

    def _resize(self, call: Call) -> dict[str, Any]:
        raise unsupported("online resize")

    def _trace(self, call: Call) -> Answer:
        data, _ = self._entry(call).device.native.recorded()
        return Answer(200, data, BINARY)

    def _start_trace(self, call: Call) -> object:
        self._entry(call).device.native.start_recording()
        return {"recording": True}

    def _stop_trace(self, call: Call) -> Answer:
        """The answer's body is the trace file."""
        return Answer(200, self._entry(call).device.native.stop_recording(), BINARY)
