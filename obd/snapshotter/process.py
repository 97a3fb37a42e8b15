"""The snapshotter as a process: it listens, serves until SIGTERM, and leaves all devices as they are."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc

from obd.credentials.protect import no_core_dumps
from obd.daemon.notify import Notifier
from obd.errors import ObdError, line_of
from obd.exporter import listen
from obd.http_server import Answer, HttpServer, Request
from obd.snapshotter.config import SnapshotterConfig
from obd.snapshotter.conversion import Conversion
from obd.snapshotter.metrics import CONTENT_TYPE, Calls
from obd.snapshotter.reconcile import reconcile, servers
from obd.snapshotter.service import Service
from obd.snapshotter.snapshots import Snapshots
from obd.snapshotter.watch import Watch

_log: Final = logging.getLogger("overlaybd.snapshotter")

# Calls at the same time: most wait for devices. More wait for these.
THREADS: Final = 512
# How long calls that are under way may take to end.
GRACE_S: Final = 30.0
# How often it is looked for what is wrong, besides.
LOOK_S: Final = 10.0
_LEVELS: Final = {"trace": "DEBUG", "fatal": "CRITICAL", "panic": "CRITICAL", "warn": "WARNING"}


def serve(config: SnapshotterConfig) -> None:
    """Serves until SIGTERM or SIGINT. Raises `OSError` if it cannot start; then no snapshot was touched."""
    level = config.verbose
    logging.basicConfig(format="%(levelname)s %(message)s", level=_LEVELS.get(level, level.upper()))
    for key in config.ignored:
        _log.warning("%s in the configuration means nothing here", key)
    no_core_dumps()
    watch = Watch()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, watch.stop)
    with Running(config) as running, running.notifier():
        _log.info("serving %s at %s", config.root, config.address)
        running.snapshots.devices.on_attached = watch.wake
        while not watch.stopped:
            _wait(watch, running.snapshots)
            reconcile(running.snapshots)
        _log.info("ending; devices stay")


def _wait(watch: Watch, snapshots: Snapshots) -> None:
    """Returns when a device's server has ended, somebody woke it, or after some time."""
    try:
        watch.wait(servers(snapshots), LOOK_S)
    except OSError as error:
        _log.error("looking for the servers of devices: %s", line_of(error))
        watch.wait((), LOOK_S)


class Running:
    """A snapshotter that serves while the block lasts."""

    def __init__(self, config: SnapshotterConfig) -> None:
        self._config: Final = config
        os.makedirs(config.root, mode=0o700, exist_ok=True)
        self._lock: Final = _lock(config.root)
        self.snapshots: Final = Snapshots(config)
        self.calls: Final = Calls()
        self._exporter: HttpServer | None = None
        self._conversion: Final = Conversion(self.snapshots)
        self._server: Final = grpc.server(
            ThreadPoolExecutor(THREADS, "call"), options=[("grpc.so_reuseport", 0)]
        )

    def __enter__(self) -> Running:
        try:
            self._server.add_generic_rpc_handlers([Service(self.snapshots, self.calls).handler()])
            _bind(self._server, self._config.address)
            self._exporter = self._export()
            # Not before it is sure that nobody else serves there: what is nobody's is removed.
            reconcile(self.snapshots)
            if self._config.convert_layers:
                self._conversion.start()
            self._server.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(GRACE_S).wait()
        self._conversion.stop()
        if self._exporter is not None:
            self._exporter.stop()
        self.snapshots.close()
        os.close(self._lock)

    def notifier(self) -> _Told:
        """Tells the service manager that all is ready, and when it ends."""
        return _Told()

    def _export(self) -> HttpServer | None:
        wanted = self._config.exporter
        if not wanted.enable:
            return None

        def answer(request: Request) -> Answer:
            if not request.path.startswith(wanted.uri_prefix):
                return Answer(404, b"not found\n")
            return Answer(200, self.calls.text(), CONTENT_TYPE)

        return HttpServer(listen("127.0.0.1", wanted.port), answer, "exporter")


class _Told:
    def __init__(self) -> None:
        self._notifier: Final = Notifier()

    def __enter__(self) -> None:
        self._notifier.send("READY=1")

    def __exit__(self, *_: object) -> None:
        self._notifier.send("STOPPING=1")
        self._notifier.close()


def _lock(root: str) -> int:
    """Takes the root for this process. Raises `ObdError` if another one has it."""
    descriptor = os.open(os.path.join(root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise ObdError("busy", "another overlaybd-snapshotter serves this root", root) from None
    return descriptor


def _bind(server: grpc.Server, address: str) -> None:
    """Takes a Unix socket in a directory that nobody else may enter; what is left of an old one goes."""
    os.makedirs(os.path.dirname(address), mode=0o700, exist_ok=True)
    if os.path.exists(address):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            if other.connect_ex(address) == 0:
                raise ObdError("busy", "somebody listens there already", address)
        os.unlink(address)
    mask = os.umask(0o077)
    try:
        server.add_insecure_port(f"unix:{address}")
    except RuntimeError as error:
        raise ObdError("io", f"cannot listen: {error}", address) from error
    finally:
        os.umask(mask)
