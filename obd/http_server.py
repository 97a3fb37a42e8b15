"""A small HTTP server for metrics and control: bounded in threads, time and size, by TCP or unix socket."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer, ThreadingMixIn
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

_log: Final = logging.getLogger("overlaybd.http")

# Requests answered at a time; whoever comes then waits in the kernel's queue.
MAX_THREADS: Final = 8
BACKLOG: Final = 16
# How long a client may take for a request, and be idle between two.
TIMEOUT_S: Final = 10.0
MAX_BODY_BYTES: Final = 64 << 10
MAX_PARAMETERS: Final = 32
# How often the accepting thread looks whether it should end.
POLL_S: Final = 0.2


class Request(NamedTuple):
    """What a client asks for."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What it gets."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


Handler = Callable[[Request], Answer]


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
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingMixIn, BaseServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, handle: Handler) -> None:
        super().__init__(listener.getsockname(), _Connection)
        self.socket = listener
        self.handle_one = handle
        self._places = threading.BoundedSemaphore(MAX_THREADS)

    def fileno(self) -> int:
        return self.socket.fileno()

    def get_request(self) -> tuple[socket.socket, Any]:
        # Not for ever: the loop also has to see that it should end.
        if not self._places.acquire(timeout=POLL_S):
            raise BlockingIOError("all threads are busy")
        try:
            connection, address = self.socket.accept()
        except BaseException:
            self._places.release()
            raise
        return connection, address or ("local", 0)

    def shutdown_request(self, request: Any) -> None:
        """The last call for each that was accepted."""
        self._places.release()
        request.close()

    def server_close(self) -> None:
        self.socket.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a client went away", exc_info=True)


class _Connection(BaseHTTPRequestHandler):
    timeout = TIMEOUT_S
    protocol_version = "HTTP/1.1"
    server: _Server

    def version_string(self) -> str:
        return "overlaybd"

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)

    def _serve(self) -> None:
        url = urlsplit(self.path)
        try:
            length = int(self.headers.get("Content-Length") or 0)
            query = dict(parse_qsl(url.query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS))
        except ValueError:
            return self._answer(Answer(400, b"bad request\n"), close=True)
        if not 0 <= length <= MAX_BODY_BYTES or "Transfer-Encoding" in self.headers:
            return self._answer(Answer(413, b"body too large\n"), close=True)
        body = self.rfile.read(length)
        try:
            answer = self.server.handle_one(Request(self.command, url.path, query, body))
        except Exception:
            _log.exception("%s %s failed", self.command, url.path)
            answer = Answer(500, b"internal error\n")
        return self._answer(answer)

    def _answer(self, answer: Answer, *, close: bool = False) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if close:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve
