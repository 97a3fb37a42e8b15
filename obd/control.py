"""The control socket of a process that runs for long: the API of `obd.api`, for the same user only."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from obd.http_server import HttpServer
from obd.sockets import control_directory, listen_at

if TYPE_CHECKING:
    from obd.api.routes import Routes


class Control:
    """Answers by `routes` at a unix socket that is named after this process."""

    def __init__(self, routes: Routes) -> None:
        """Listens. Raises `OSError` if there is no place for the socket."""
        self.path: Final = os.path.join(control_directory(create=True), f"{os.getpid()}.sock")
        # Only a process of our own number can have left one there, and that is no more.
        self._server: Final = HttpServer(listen_at(self.path), routes.answer, "control")

    def stop(self) -> None:
        """Takes the socket away."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._server.stop()
