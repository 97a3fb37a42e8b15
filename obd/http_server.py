"""A small HTTP server for metrics and control: bounded in threads, time and size, by TCP or unix socket."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer, ThreadingMixIn
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

_log: Final = logging.getLogger("overlaybd.http")

# Requests answered at a time; whoever comes then takes the place of a connection that is idle, or waits in
# the kernel's queue.
MAX_THREADS: Final = 16
BACKLOG: Final = 64
# How long a request may take to arrive, and its answer to leave; how long a connection may be idle between.
TIMEOUT_S: Final = 10.0
IDLE_S: Final = 10.0
# First line and headers of a request.
MAX_HEAD_BYTES: Final = 32 << 10
MAX_BODY_BYTES: Final = 64 << 10
MAX_PARAMETERS: Final = 32
# For how long a client that was refused may still send until the connection is closed.
DRAIN_S: Final = 1.0
# How often the accepting thread looks whether it should end.
POLL_S: Final = 0.2
JSON: Final = "application/json"


class Connection(NamedTuple):
    """The two ends of the connection that a request came by."""

    family: int
    local: Any
    """Addresses as the socket module has them; of a unix socket they say nothing of the client."""
    peer: Any


class Request(NamedTuple):
    """What a client asks for."""

    method: str
    path: str
    """As it was sent, with its `%` escapes."""
    query: dict[str, str]
    body: bytes = b""
    headers: Mapping[str, str] = {}
    """By name in lower case; what is repeated is one, with commas."""
    connection: Connection | None = None


class Answer(NamedTuple):
    """What it gets."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    """"" for none."""
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Answer]


def failure(kind: str, message: str, status: int, *headers: tuple[str, str]) -> Answer:
    """The answer to what cannot be done: `kind` is one of `obd.errors.ERRNO`, the message one line."""
    return as_json({"error": kind, "message": message}, status, *headers)


def as_json(content: object, status: int = 200, *headers: tuple[str, str]) -> Answer:
    """An answer of JSON."""
    return Answer(status, json.dumps(content).encode() + b"\n", JSON, headers)


class HttpServer:
    """Answers requests at `listener` by `handle`, in threads of its own, until `stop`."""

    def __init__(self, listener: socket.socket, handle: Handler, name: str) -> None:
        """Takes over a bound socket. `name` is for threads and the log."""
        listener.listen(BACKLOG)
        self._server: Final = _Server(listener, handle)
        self._thread: Final = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name=name, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Accepts no more. Answers under way end by themselves, within `TIMEOUT_S`."""
        with contextlib.suppress(OSError):
            # The accepting thread need not wait for its next look.
            self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingMixIn, BaseServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, handle: Handler) -> None:
        super().__init__(listener.getsockname(), _Exchange)
        self.socket = listener
        self.handle_one = handle
        self._places = threading.BoundedSemaphore(MAX_THREADS)
        # Connections that wait for their next request, longest first.
        self._idle: dict[socket.socket, None] = {}
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self.socket.fileno()

    def get_request(self) -> tuple[socket.socket, Any]:
        if not self._places.acquire(blocking=False):
            self._end_idle()
            # Not for ever: the loop also has to see that it should end.
            if not self._places.acquire(timeout=POLL_S):
                raise BlockingIOError("all threads are busy")
        try:
            connection, address = self.socket.accept()
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            self._places.release()
            raise
        return connection, address or ("local", 0)

    def waits(self, connection: socket.socket, idle: bool) -> None:
        """Takes note whether a connection is idle: if so it may be ended for another."""
        with self._lock:
            self._idle.pop(connection, None)
            if idle:
                self._idle[connection] = None

    def _end_idle(self) -> None:
        """Makes room: the connection that has been idle longest has to go, if there is one."""
        with self._lock, contextlib.suppress(OSError):
            if self._idle:
                longest = next(iter(self._idle))
                del self._idle[longest]
                longest.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """The last call for each that was accepted."""
        self.waits(request, False)
        self._places.release()
        request.close()

    def server_close(self) -> None:
        self.socket.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a client went away", exc_info=True)


class _TooLong(http.client.LineTooLong):
    def __init__(self) -> None:
        super().__init__("head")


class _Arriving(io.RawIOBase):
    """The bytes of a request as they come: not too many, and not too slowly, whatever their pieces."""

    def __init__(self, server: _Server, connection: socket.socket) -> None:
        self._server = server
        self._connection = connection
        self._deadline = 0.0
        self._room = 0
        self.idle = False

    def readable(self) -> bool:
        return True

    def begin(self) -> None:
        """What comes now is the next request."""
        self._deadline = time.monotonic() + IDLE_S
        self._room = MAX_HEAD_BYTES
        self.idle = True

    def expect(self, length: int) -> None:
        """A body of that length follows."""
        self._room = length

    def drain(self) -> None:
        """Takes what still comes, for a moment, and drops it."""
        end = time.monotonic() + DRAIN_S
        while (left := end - time.monotonic()) > 0:
            self._connection.settimeout(left)
            if not self._connection.recv(64 << 10):
                return

    def readinto(self, buffer: Any) -> int:
        if self._room <= 0:
            raise _TooLong
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request came too slowly")
        self._connection.settimeout(left)
        if self.idle:
            self._server.waits(self._connection, True)
        count = self._connection.recv_into(buffer)
        if self.idle:
            self._server.waits(self._connection, False)
            self.idle = False
            self._deadline = time.monotonic() + TIMEOUT_S
        self._room -= count
        return count


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Of what is no request at all; an answer with headers, since everybody understands that.
    default_request_version = "HTTP/1.0"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._arriving = _Arriving(self.server, self.connection)
        self.rfile.close()
        self.rfile = io.BufferedReader(self._arriving, 8192)
        self._unread = False

    def finish(self) -> None:
        super().finish()
        if self._unread:
            # Closed with bytes unread, a connection is reset, and the answer may be lost with them.
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_WR)
                self._arriving.drain()

    def version_string(self) -> str:
        return "overlaybd"

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)

    def handle_one_request(self) -> None:
        """Any method is as good as another here: the handler knows which it wants."""
        self.close_connection = True
        self.requestline, self.request_version, self.command = "", self.default_request_version, ""
        self._arriving.begin()
        try:
            self.raw_requestline = self.rfile.readline(MAX_HEAD_BYTES)
        except _TooLong:
            return self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
        except TimeoutError:
            # Nothing is owed to a client that asked for nothing.
            return None if self._arriving.idle else self.send_error(HTTPStatus.REQUEST_TIMEOUT)
        except ConnectionError:
            return None
        if not self.raw_requestline:
            return None
        if not self.raw_requestline.endswith(b"\n"):
            whole = len(self.raw_requestline) < MAX_HEAD_BYTES
            return self.send_error(HTTPStatus.BAD_REQUEST if whole else HTTPStatus.REQUEST_URI_TOO_LONG)
        try:
            if self.parse_request():
                return self._serve()
        except TimeoutError:
            self.send_error(HTTPStatus.REQUEST_TIMEOUT)
        return None

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses is told as everything else is."""
        kind = {408: "timed-out", 413: "limit", 414: "limit", 431: "limit"}.get(code, "invalid")
        self._unread = True
        # Not the library's text, which quotes the client.
        self._answer(failure(kind, HTTPStatus(code).phrase.lower(), code), close=True)

    def _serve(self) -> None:
        try:
            url = urlsplit(self.path)
            query = dict(parse_qsl(url.query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS))
            length = self._length()
        except ValueError:
            return self.send_error(HTTPStatus.BAD_REQUEST)
        if length > MAX_BODY_BYTES or "Transfer-Encoding" in self.headers:
            return self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        self._arriving.expect(length)
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return None
        where = Connection(self.connection.family, self.connection.getsockname(), self.client_address)
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            before = headers.get(name.lower())
            headers[name.lower()] = value if before is None else f"{before}, {value}"
        request = Request(self.command, url.path, query, body, headers, where)
        try:
            answer = self.server.handle_one(request)
        except Exception:
            _log.exception("%s %s failed", self.command, url.path)
            answer = failure("io", "internal error", 500)
        return self._answer(answer)

    def _length(self) -> int:
        """That of the body. Raises `ValueError` for what is no number, or two."""
        given = self.headers.get_all("Content-Length", ["0"])
        if len(given) != 1 or not (given[0].isascii() and given[0].isdigit()):
            raise ValueError("Content-Length")
        return int(given[0].lstrip("0")[:20] or "0")

    def _answer(self, answer: Answer, *, close: bool = False) -> None:
        self.connection.settimeout(TIMEOUT_S)
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if answer.content_type:
            self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if close:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
