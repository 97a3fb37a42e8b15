"""Where the API of `serviceConfig` listens: at a unix socket, and on the loopback interface if asked."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from obd.api.guard import Guard, Token
from obd.errors import ObdError, kind_of
from obd.http_server import Handler, HttpServer
from obd.sockets import listen_at
from obd.state import run_directory

if TYPE_CHECKING:
    from obd.config.service import ApiConfig

SOCKET_NAME: Final = "api.sock"
# That of a URL without one.
HTTP_PORT: Final = 80


def socket_path(config: ApiConfig) -> str:
    """Where the unix socket is."""
    return config.socket or os.path.join(run_directory(), SOCKET_NAME)


class Listeners:
    """Answers requests at the places that `config` names."""

    def __init__(self, config: ApiConfig, answer: Handler) -> None:
        """Listens. Raises `ObdError` if it cannot at one of them; then at none."""
        self._servers: Final[list[HttpServer]] = []
        self.path: Final = socket_path(config)
        self.port = 0
        self._lock = -1
        self._bound = False
        try:
            token = Token(config.token_file) if config.token_file else None
            if config.url:
                listener = _listen_tcp(config.url)
                self.port = listener.getsockname()[1]
                self._servers.append(
                    HttpServer(listener, Guard(answer, token, urlsplit(config.url).hostname or ""), "api-tcp")
                )
            os.makedirs(os.path.dirname(self.path) or ".", mode=0o700, exist_ok=True)
            self._lock = _take(f"{self.path}.lock")
            unix = listen_at(self.path)
            self._bound = True
            self._servers.append(HttpServer(unix, answer, "api"))
        except BaseException as error:
            self.stop()
            if isinstance(error, ObdError) or not isinstance(error, OSError):
                raise
            raise ObdError(kind_of(error), f"serviceConfig: {error.strerror}", self.path) from error

    def stop(self) -> None:
        """Gives the places back."""
        if self._bound:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        while self._servers:
            self._servers.pop().stop()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _take(path: str) -> int:
    """A descriptor that holds the lock at `path`. Raises `ObdError` if another process has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        what = "serviceConfig: another process answers there (each needs an address of its own)"
        raise ObdError("busy", what, path.removesuffix(".lock")) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _listen_tcp(url: str) -> socket.socket:
    parts = urlsplit(url)
    host, port = parts.hostname or "", HTTP_PORT if parts.port is None else parts.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A name is not looked up: it might lead elsewhere.
        listener.bind(("127.0.0.1" if host == "localhost" else host, port))
    except OSError as error:
        listener.close()
        what = f"serviceConfig.address: cannot listen at {url}: {error.strerror or error}"
        raise ObdError(kind_of(error), what) from error
    return listener
