"""A registry with one blob, which answers only while it is told to."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class SlowRegistry:
    """Serves a blob. While `open` is not set, requests wait."""

    def __init__(self, blob: bytes) -> None:
        self.open = threading.Event()
        self.open.set()
        self.waiting = threading.Event()
        self.digest = "sha256:" + hashlib.sha256(blob).hexdigest()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not registry.open.is_set():
                    registry.waiting.set()
                    registry.open.wait()
                first, last = 0, len(blob) - 1
                if asked := self.headers.get("Range"):
                    begin, _, end = asked.removeprefix("bytes=").partition("-")
                    first, last = int(begin), min(int(end or last), last)
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(last - first + 1))
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(blob)}")
                self.end_headers()
                self.wfile.write(blob[first : last + 1])

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v2/library/slow/blobs"


@contextmanager
def slow_registry(blob: Path) -> Iterator[SlowRegistry]:
    """A registry that has the file `blob`."""
    registry = SlowRegistry(blob.read_bytes())
    thread = threading.Thread(target=registry.server.serve_forever)
    thread.start()
    yield registry
    registry.open.set()
    registry.server.shutdown()
    thread.join()
    registry.server.server_close()
