"""All by which a process that runs for long can be watched: control socket, metrics, audit log, notices."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import obdcore
from obd.audit import Audit, start_audit
from obd.caches import log_notices
from obd.errors import line_of
from obd.overview import Overview

if TYPE_CHECKING:
    from obd.api import Api
    from obd.api.listen import Listeners
    from obd.control import Control
    from obd.exporter import Exporter
    from obd.metrics import Metrics
    from obd.service import Service

_log: Final = logging.getLogger("overlaybd.observer")

# How often rates are sampled and notices of caches put into the log.
TICK_S: Final = 1.0


class Observer:
    """Begins the audit log if the service configuration asks for it; `listen` begins the rest.

    `overview` is told of devices by their owner.
    """

    def __init__(self, service: Service, command: str) -> None:
        """`command` is what the process was started as, for people."""
        self.overview: Final = Overview(service, command)
        # Without a service configuration nobody asked for files in /var/log.
        self.audit: Audit | None = None
        self.begin_audit()
        self.exporter: Exporter | None = None
        self.control: Control | None = None
        self.api: Api | None = None
        """The routes of the control socket, once there is one (`listen`)."""
        self.listeners: Listeners | None = None
        self._metrics: Metrics | None = None
        self._end: Final = threading.Event()
        self._thread: threading.Thread | None = None

    def listen(self, *, must_export: bool = False) -> None:
        """Begins to sample, and to answer at the control socket and, if configured, to Prometheus.

        What cannot listen is a warning; with `must_export` an exporter that cannot is an `OSError`.
        """
        # Late: these libraries take longer to import than a small image to open.
        from obd.api import Api
        from obd.metrics import Metrics

        exporter = self.overview.service.config.exporter
        metrics = self._metrics = Metrics(self.overview, legacy=exporter.legacy_names)
        if exporter.enable:
            self._export(metrics, must_export)
        self.api = Api(self, self.overview.service, metrics)
        self._control(self.api)
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._thread.start()

    def _export(self, metrics: Metrics, must: bool) -> None:
        from obd.exporter import Exporter

        try:
            self.exporter = Exporter(metrics, self.overview.service.config.exporter)
        except OSError as error:
            if must:
                raise
            _log.warning("%s: no metrics are exported", line_of(error))

    def begin_audit(self) -> bool:
        """Writes the audit log that the configuration asks for now, and no other; whether there is one."""
        if self.audit is not None:
            self.audit.stop()
        config = self.overview.service.config
        # Without a service configuration nobody asked for files in /var/log.
        self.audit = start_audit(config) if config.file else None
        return self.audit is not None

    def begin_export(self) -> str:
        """Exports metrics as the configuration asks now. Returns what went wrong, "" if nothing did."""
        if self._metrics is None:
            return ""
        if self.exporter is not None:
            self.exporter.stop()
            self.exporter = None
        if self.overview.service.config.exporter.enable:
            try:
                self._export(self._metrics, True)
            except OSError as error:
                return f"{line_of(error)}: no metrics are exported"
        return ""

    def _control(self, api: Api) -> None:
        from obd.control import Control

        try:
            self.control = Control(api.routes)
        except OSError as error:
            _log.warning("%s: `obd stat` will not see this process", line_of(error))

    def _run(self) -> None:
        while not self._end.wait(TICK_S):
            try:
                self._tick()
            except Exception:
                _log.exception("sampling failed")

    def _tick(self) -> None:
        log_notices()
        for line in obdcore.engine_notices():
            _log.warning("%s", line)
        if self._metrics is not None:
            self._metrics.tick()

    def stop(self) -> None:
        """Ends all of it; may be called twice."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        for part in (self.listeners, self.control, self.exporter, self.audit):
            if part is not None:
                part.stop()
        self.listeners = self.control = self.exporter = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
