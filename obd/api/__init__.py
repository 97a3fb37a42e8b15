"""The management API: the same routes at the control socket of a process and where `serviceConfig` says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from obd.api.attachments import Attachments
from obd.api.compatible import PREFIX, Compatible
from obd.api.devices import Devices
from obd.api.process import Process
from obd.api.reload import reload as reload_configuration
from obd.api.routes import Routes
from obd.api.work import Works
from obd.errors import line_of

if TYPE_CHECKING:
    from obd.metrics import Metrics
    from obd.observer import Observer
    from obd.service import Service

__all__ = ["Api", "start_api"]

_log: Final = logging.getLogger("overlaybd.api")


class Api:
    """All routes for what `observer` sees."""

    def __init__(self, observer: Observer, service: Service, metrics: Metrics) -> None:
        overview = observer.overview
        works = Works()
        devices = Devices(overview, works)
        self.process: Final = Process(overview, metrics, lambda: reload_configuration(observer, service))
        self.routes: Final = Routes()
        for part in (devices, Attachments(service, works), self.process):
            part.add_to(self.routes)
        self.routes.add_prefix(PREFIX, Compatible(overview, devices.snapshot_to).answer)


def start_api(
    observer: Observer,
    service: Service,
    *,
    causes: Callable[[], list[str]] | None = None,
    reload: Callable[[], dict[str, Any]] | None = None,
    must: bool = True,
) -> None:
    """Gives the API of this process what only its program can do, and answers where `serviceConfig` says.

    To be called once, after `observer.listen()`, whether `serviceConfig.enable` is set or not: the control
    socket offers the same routes in any case. `observer.stop()` ends it.

    `causes()` are lines that say why the process is not ready, none if it is. `reload()` reads the
    configuration anew and returns what `obd.api.reload.reload` does, which is what happens without it. Both
    may be called by several threads at a time; an `OSError` becomes the answer.

    Raises `ObdError` if it cannot listen; without `must` that is a warning in the log.
    """
    api = observer.api
    if api is None:
        raise RuntimeError("observer.listen() comes first")
    api.process.causes = causes or api.process.causes
    api.process.reload = reload or api.process.reload
    if not service.config.api.enable:
        return
    from obd.api.listen import Listeners

    try:
        observer.listeners = Listeners(service.config.api, api.routes.answer)
    except OSError as error:
        if must:
            raise
        _log.warning("%s: the API does not answer there", line_of(error))
