"""An HTTP server of which every byte and every moment is in the hands of its handler."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable

# What is read of a request; the clients under test send no more.
MAX_HEAD_BYTES = 64 << 10
# Pause between the bytes of a trickle.
DRIP_S = 0.2

Header = tuple[str, str]


class Exchange:
    """One request, and the connection on which anything can be answered to it."""

    def __init__(self, server: "Server", connection: socket.socket, head: str) -> None:
        self.server = server
        self._connection = connection
        line, *rest = head.split("\r\n")
        self.method, self.target, _ = line.split(" ", 2)
        self.headers = {
            name.lower(): value.strip() for name, _, value in (row.partition(":") for row in rest)
        }
        self.keep = True

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def send(self, data: bytes) -> None:
        """These bytes, whatever they are."""
        self._connection.sendall(data)

    def head(self, status: int, headers: Iterable[Header] = (), *, reason: str = "Scripted") -> None:
        """Status line and headers, as they are given."""
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def answer(self, status: int, headers: Iterable[Header] = (), body: bytes = b"") -> None:
        """A whole answer with the length of its body; in one packet, so that nothing waits for the second."""
        lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers)]
        lines.append(f"Content-Length: {len(body)}")
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)

    def close(self) -> None:
        """Ends the connection in good order after what was sent."""
        self.keep = False

    def reset(self) -> None:
        """Ends the connection by a reset: what the client has not read yet may be lost to it."""
        self.keep = False
        reset(self._connection)

    def hold(self) -> None:
        """Says nothing more, until the client gives up or the server ends."""
        self.keep = False
        with contextlib.suppress(OSError):
            while self._connection.recv(4096):
                pass

    def wait_for_more(self) -> None:
        """Returns when the client has sent something more, or has gone."""
        with contextlib.suppress(OSError):
            self._connection.recv(1, socket.MSG_PEEK)

    def trickle(self, data: bytes, step: int = 1) -> None:
        """So many bytes at a time, with a pause after each."""
        for at in range(0, len(data), step):
            self.send(data[at : at + step])
            if self.server.ended.wait(DRIP_S):
                return


def reset(connection: socket.socket) -> None:
    """Closes a connection by RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Server:
    """Gives each request to `handle`, each connection in a thread of its own; stopped by `stop`.

    `accepted` sees a connection before anything is read from it; false: it has dealt with it. With `context`
    TLS is spoken.
    """

    def __init__(
        self,
        handle: Callable[[Exchange], None],
        *,
        accepted: Callable[[socket.socket], bool] = lambda _: True,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._handle = handle
        self._accepted = accepted
        self._context = context
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._socket = bound(0)
        self.port = int(self._socket.getsockname()[1])
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.listen()

    def listen(self) -> None:
        """Accepts connections from now on."""
        self._socket.listen(128)
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()

    def refuse(self) -> None:
        """Drops all connections and refuses others, until `listen`. The port stays taken."""
        end(self._socket)
        self._socket = bound(self.port)
        self.drop_connections()

    def _accept(self, listener: socket.socket) -> None:
        while not self.ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self._accepted(connection):
                return
            if self._context:
                plain, connection = connection, self._context.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._open.discard(plain)
                    self._open.add(connection)
            buffer = b""
            while not self.ended.is_set():
                while b"\r\n\r\n" not in buffer:
                    data = connection.recv(8192)
                    if not data or len(buffer) > MAX_HEAD_BYTES:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                exchange = Exchange(self, connection, head.decode("latin-1"))
                self._handle(exchange)
                if not exchange.keep:
                    return
        except (OSError, ValueError):
            # The client hung up, or will not have our certificate: that is its right.
            return
        finally:
            with self._lock:
                self._open.discard(connection)
            with contextlib.suppress(OSError):
                connection.close()

    def drop_connections(self) -> None:
        """Ends all connections, as a restarted server does."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Accepts nothing more and ends all connections."""
        self.ended.set()
        end(self._socket)
        self.drop_connections()


def bound(port: int) -> socket.socket:
    """A socket of the loopback that refuses connections until it listens; port 0 is any free one."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made


def end(listener: socket.socket) -> None:
    """Closes a socket, and lets go who waits in its `accept`."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
