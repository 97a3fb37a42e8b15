"""The credential mode `uds`: a server on this host, asked over its Unix socket."""

import http.client
import socket

from obd.credentials.server import MAX_BODY_BYTES, ServerCredentials
from obd.credentials.source import LookupFailed


class SocketCredentials(ServerCredentials):
    """The server that listens at the socket `path`."""

    def __init__(self, path: str, *, timeout_s: float = 1, raw_url: bool = False) -> None:
        super().__init__(f"unix socket {path}", timeout_s=timeout_s, raw_url=raw_url)
        self._path = path

    def fetch(self, query: str) -> tuple[int, bytes]:
        """As `ServerCredentials.fetch`."""
        connection = _Connection(self._path, self._timeout_s)
        try:
            connection.request("GET", f"/auth?{query}")
            with connection.getresponse() as response:
                return response.status, response.read(MAX_BODY_BYTES + 1)
        except http.client.HTTPException as error:
            raise LookupFailed(f"does not speak HTTP: {type(error).__name__}") from None
        finally:
            connection.close()


class _Connection(http.client.HTTPConnection):
    """HTTP to `localhost`, by a socket of the file system."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._limit_s = timeout_s

    def connect(self) -> None:
        """Connects to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._limit_s)
        self.sock.connect(self._path)
