"""The control socket of a process that runs for long: what it has open, metrics, recording on request."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from obd.errors import ObdError, kind_of, line_of
from obd.http_server import Answer, HttpServer, Request
from obd.metrics import CONTENT_TYPE, Metrics
from obd.sockets import control_directory

if TYPE_CHECKING:
    from obd.overview import Overview

Route = Callable[[Request], Any]

# HTTP statuses of errors by kind; 500 for the rest.
_STATUS: Final = {"invalid": 400, "denied": 403, "not-found": 404, "exists": 409, "busy": 409}


class Routes:
    """Which function answers which method and path. It returns what becomes JSON, or an `Answer`."""

    def __init__(self, routes: dict[tuple[str, str], Route]) -> None:
        self._routes: Final = dict(routes)

    def add(self, method: str, path: str, route: Route) -> None:
        """One more."""
        self._routes[method, path] = route

    def answer(self, request: Request) -> Answer:
        """Answers a request; an `OSError` of a route becomes its status, with `error` and `message`."""
        method = "GET" if request.method == "HEAD" else request.method
        route = self._routes.get((method, request.path))
        if route is None:
            known = any(path == request.path for _, path in self._routes)
            what = f"{request.path} is not for {request.method}" if known else f"no {request.path}"
            return _json({"error": "not-found", "message": what}, 405 if known else 404)
        try:
            result = route(request)
        except OSError as error:
            kind = kind_of(error)
            return _json({"error": kind, "message": line_of(error)}, _STATUS.get(kind, 500))
        return result if isinstance(result, Answer) else _json(result)


def _json(content: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(content).encode() + b"\n", "application/json")


class Control:
    """Listens at a unix socket of this process, for its user only."""

    def __init__(self, overview: Overview, metrics: Metrics) -> None:
        """Listens. Raises `OSError` if there is no place for the socket."""
        self._overview: Final = overview
        self._metrics: Final = metrics
        self.routes: Final = Routes(
            {
                ("GET", "/stat"): lambda request: overview.stat(),
                ("GET", "/metrics"): lambda request: Answer(200, metrics.text(), CONTENT_TYPE),
                ("POST", "/trace/start"): self._start_trace,
                ("POST", "/trace/stop"): self._stop_trace,
            }
        )
        self.path: Final = os.path.join(control_directory(create=True), f"{os.getpid()}.sock")
        self._server: Final = HttpServer(_listen(self.path), self.routes.answer, "control")

    def stop(self) -> None:
        """Takes the socket away."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._server.stop()

    def _image(self, request: Request) -> Any:
        name = request.query.get("device")
        found = [entry for entry, _, _ in self._overview.devices() if name in (None, entry.name)]
        if len(found) != 1:
            what = f"no device {name!r}" if name is not None else "which device? (device=NAME)"
            raise ObdError("not-found" if name is not None else "invalid", what)
        return found[0].device.native

    def _start_trace(self, request: Request) -> object:
        self._image(request).start_recording()
        return {"recording": True}

    def _stop_trace(self, request: Request) -> Answer:
        """The answer's body is the trace file."""
        return Answer(200, self._image(request).stop_recording(), "application/octet-stream")


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Only a process of our own number can have left it, and that is no more.
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        # Nobody else may get into the directory, so the moment between the two does not matter.
        listener.bind(path)
        os.chmod(path, 0o600)
    except OSError as error:
        listener.close()
        what = f"control socket: {error.strerror or error}"
        raise ObdError(kind_of(error), what, path) from error
    return listener
