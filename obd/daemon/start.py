"""The start of the daemon, in an order in which a failure does no harm; and its end."""

from __future__ import annotations

import logging
import os
import signal
import threading
from importlib import import_module
from types import FrameType
from typing import Final

from obd.api import start_api
from obd.config import load_service
from obd.credentials.protect import no_core_dumps
from obd.daemon.daemon import Daemon
from obd.daemon.handover import start_successor, succession
from obd.daemon.kernel import prepare
from obd.daemon.lock import InstanceLock
from obd.daemon.process import settle
from obd.errors import line_of
from obd.logs import LineHandler, start_log
from obd.service import Service

_log: Final = logging.getLogger("overlaybd.tcmu")

_FAILED: Final = 255

# What is needed later, while disks stand still or their makers wait.
_LATER: Final = ("obd.metrics", "obd.control", "obd.exporter", "obd.api.listen", "obd.registry")


def serve(config: str | None, *, takeover: bool = False) -> None:
    """Runs the daemon with a service configuration (None: the host's) until SIGTERM or SIGINT.

    `takeover`: takes the place of a daemon that is running, if there is one. Raises `OSError` if it cannot
    start: nothing has been changed then, and a daemon that is running goes on if it can.
    """
    lock = InstanceLock()
    alone = lock.try_acquire()
    if not alone and not takeover:
        lock.acquire()  # says who has it
    settings = load_service(config)
    no_core_dumps()
    settle()
    log = start_log(settings.log)
    try:
        _serve(Service(settings), log, lock, alone)
    except Exception as error:
        _log.critical("the daemon ends: %s", line_of(error))
        raise


def _serve(service: Service, log: LineHandler, lock: InstanceLock, alone: bool) -> None:
    prepare()
    for module in _LATER:
        import_module(module)
    _log.info("process %d, with %s", os.getpid(), service.config.file or "the defaults")
    daemon = Daemon(service)
    with daemon.observer:
        if alone:
            _listen(daemon, must=True)
            daemon.open()
        else:
            with succession(lock, daemon.notifier):
                daemon.open()
            # There is no way back now: disks are more than ports.
            _listen(daemon, must=False)
        _hear_signals(daemon, log)
        try:
            daemon.run()
        except Exception:
            # As in a crash, from which the next daemon recovers: nobody may serve rings and not hear.
            _log.exception("the daemon ends: the kernel is not heard any more")
            logging.shutdown()
            os._exit(_FAILED)
        daemon.observer.stop()  # the next daemon wants its places
        lock.release()  # and need not wait for what else ends here
    if daemon.hangs:
        logging.shutdown()
        os._exit(0)  # what hangs would keep the interpreter from ending


def _listen(daemon: Daemon, *, must: bool) -> None:
    """Lets the daemon be watched; with `must` it is an `OSError` if that cannot be."""
    observer = daemon.observer
    observer.listen(must_export=must)
    start_api(observer, observer.overview.service, causes=daemon.causes, must=must)


def _hear_signals(daemon: Daemon, log: LineHandler) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        daemon.stop()

    def reopen(number: int, frame: FrameType | None) -> None:
        daemon.call(lambda: log.file.reopen())

    def reload(number: int, frame: FrameType | None) -> None:
        reopen(number, frame)
        # What it changes may make wait: not in the loop.
        daemon.call(threading.Thread(target=_reload, args=(daemon,), daemon=True).start)

    def replace(number: int, frame: FrameType | None) -> None:
        daemon.call(_replace)

    handlers = {
        signal.SIGTERM: stop,
        signal.SIGINT: stop,
        signal.SIGHUP: reload,
        signal.SIGUSR1: reopen,
        signal.SIGUSR2: replace,
    }
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _replace() -> None:
    try:
        start_successor()
    except OSError as error:
        _log.error("no other daemon can be started: %s", line_of(error))


def _reload(daemon: Daemon) -> None:
    daemon.notifier.reloading()
    try:
        api = daemon.observer.api
        if api is not None and api.process.reload is not None:
            api.process.reload()
    except OSError as error:
        _log.error("the configuration stays as it was: %s", line_of(error))
    finally:
        daemon.notifier.send("READY=1")
