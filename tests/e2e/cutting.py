"""A proxy before a server that breaks connections at a chosen moment."""

import contextlib
import socket
import threading

from tests.e2e.faults.server import bound, end, reset

_PIECE_BYTES = 16 << 10


class Cutting:
    """Passes everything on to `127.0.0.1:port`, but for what it is told to break. Stopped by `stop`.

    `cuts` is how many connections are still to be broken: after so many bytes of the client (`after_sent`) or
    of the server (`after_received`), or instead of the answer to a request that begins with `unanswered`.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._socket = bound(0)
        self._socket.listen(64)
        self.port = int(self._socket.getsockname()[1])
        self.host = f"127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self.cuts = 0
        self.after_sent = 0
        self.after_received = 0
        self.unanswered = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Accepts nothing more."""
        end(self._socket)

    def __enter__(self) -> "Cutting":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._upstream))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(self, client, server)
            threading.Thread(target=pair.send, daemon=True).start()
            threading.Thread(target=pair.receive, daemon=True).start()

    def cut(self) -> bool:
        """Whether there is still a connection to be broken."""
        with self._lock:
            self.cuts -= 1
            return self.cuts >= 0


class _Pair:
    """One connection of a client, and ours to the server."""

    def __init__(self, proxy: Cutting, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._sent = self._received = 0
        self._lost = False

    def send(self) -> None:
        """What the client says."""
        proxy = self._proxy
        with contextlib.suppress(OSError):
            while data := self._client.recv(_PIECE_BYTES):
                self._sent += len(data)
                if proxy.after_sent and self._sent > proxy.after_sent and proxy.cut():
                    break
                if proxy.unanswered and data.startswith(proxy.unanswered) and proxy.cut():
                    self._lost = True
                self._server.sendall(data)
        self._end()

    def receive(self) -> None:
        """What the server says."""
        proxy = self._proxy
        with contextlib.suppress(OSError):
            while data := self._server.recv(_PIECE_BYTES):
                self._received += len(data)
                if self._lost:
                    break
                if proxy.after_received and self._received > proxy.after_received and proxy.cut():
                    break
                self._client.sendall(data)
        self._end()

    def _end(self) -> None:
        for one in (self._client, self._server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                reset(one)
