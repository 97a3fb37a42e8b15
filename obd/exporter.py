"""The metrics endpoint that `exporterConfig` asks for."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from obd.errors import ObdError
from obd.http_server import Answer, HttpServer, Request
from obd.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from obd.config.service import ExporterConfig


class Exporter:
    """Answers GET at the configured address; every path that begins with the prefix gets the metrics."""

    def __init__(self, metrics: Metrics, config: ExporterConfig) -> None:
        """Listens. Raises `ObdError` if it cannot."""
        self._metrics: Final = metrics
        self._prefix: Final = config.uri_prefix
        listener = listen(config.address, config.port)
        self.port: Final[int] = listener.getsockname()[1]
        self._server: Final = HttpServer(listener, self._answer, "exporter")

    def _answer(self, request: Request) -> Answer:
        if not request.path.startswith(self._prefix):
            return Answer(404, b"not found\n")
        if request.method not in ("GET", "HEAD"):
            return Answer(405, b"only GET\n")
        return Answer(200, self._metrics.text(), CONTENT_TYPE)

    def stop(self) -> None:
        """Gives the address back."""
        self._server.stop()


def listen(address: str, port: int) -> socket.socket:
    """A bound TCP socket; `address` is a name or an address of IPv4 or IPv6. Raises `ObdError`."""
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    try:
        infos = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, target = infos[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        why = error.strerror or error
        raise ObdError("io", f"exporterConfig: cannot listen at {where}: {why}") from error
    return listener
