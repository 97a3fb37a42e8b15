"""The start of the daemon, in an order in which a failure does no harm."""

from __future__ import annotations

import logging
import os
import signal
from types import FrameType
from typing import Final

from obd.config import DEFAULT_SERVICE_FILE, load_service
from obd.credentials.protect import no_core_dumps
from obd.daemon.daemon import Daemon
from obd.daemon.kernel import prepare
from obd.daemon.lock import InstanceLock
from obd.daemon.process import settle
from obd.logs import LineHandler, start_log
from obd.service import Service

_log: Final = logging.getLogger("overlaybd.tcmu")


def serve(config: str | None) -> None:
    """Runs the daemon with a service configuration (None: the host's) until SIGTERM or SIGINT.

    Raises `OSError` if it cannot start: nothing has been changed then.
    """
    lock = InstanceLock()
    lock.acquire()
    settings = load_service(config)
    no_core_dumps()
    settle()
    log = start_log(settings.log)
    service = Service(settings)
    prepare()
    _log.info("overlaybd-tcmu, process %d, %s", os.getpid(), settings.file or DEFAULT_SERVICE_FILE)
    daemon = Daemon(service)
    try:
        with daemon.observer as observer:
            observer.listen(must_export=True)
            _hear_signals(daemon, log)
            daemon.run()
    except Exception as error:
        _log.critical("the daemon ends: %s", error)
        raise


def _hear_signals(daemon: Daemon, log: LineHandler) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        daemon.stop()

    def reopen(number: int, frame: FrameType | None) -> None:
        daemon.call(log.file.reopen)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, reopen)
