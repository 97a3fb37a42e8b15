"""Labels the node as ready while the program on it answers, and lets Prometheus have its metrics.

It needs nothing of the node but its loopback interface: services are asked for their metrics, where only the
node itself can, and what they answer is passed on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LABEL = "overlaybd.io/ready"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S = 5.0
# Of a service's metrics: those of thousands of devices.
MAX_BYTES = 64 << 20
# A service that is restarted is away for a second or two: that alone does not send pods elsewhere.
FAILURES = 3
# The label is said again now and then, should somebody have taken it away.
AGAIN_S = 300.0
# Without a sign of the loop for so long it hangs.
STUCK_S = 120.0

_loopback = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(port: int) -> bytes:
    """The metrics at a port of the loopback interface. Raises `OSError` or `HTTPException`."""
    with _loopback.open(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S) as answer:
        text: bytes = answer.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise OSError(f"port {port}: more than {MAX_BYTES} bytes of metrics")
    return text


class Api:
    """The cluster's API, as far as it is wanted: the label of one node."""

    def __init__(self, server: str, node: str, account: Path = ACCOUNT) -> None:
        """`server`: its URL; `node`: name of the node; `account`: directory with token and authority."""
        self._url = f"{server}/api/v1/nodes/{node}"
        self._account = account

    def label(self, ready: bool) -> None:
        """Sets the label. Raises `OSError` or `HTTPException`."""
        body = json.dumps({"metadata": {"labels": {LABEL: str(ready).lower()}}}).encode()
        # The token is exchanged by the kubelet from time to time.
        token = (self._account / "token").read_text().strip()
        headers = {"Content-Type": "application/merge-patch+json", "Authorization": f"Bearer {token}"}
        request = urllib.request.Request(self._url, body, headers, method="PATCH")
        authority = self._account / "ca.crt"
        trust = ssl.create_default_context(cafile=str(authority)) if self._url.startswith("https:") else None
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            answer.read(1 << 20)


class Watch:
    """What is known of the node."""

    def __init__(self, ports: Mapping[str, int], api: Api) -> None:
        """`ports`: of the services that have to answer, by their names."""
        self.ports = dict(ports)
        self._api = api
        self.ready = False
        self.seen = time.monotonic()
        self._failures = FAILURES
        self._why: str | None = None
        self._said: bool | None = None
        self._said_at = 0.0

    def turn(self) -> None:
        """Looks, and tells the cluster if it does not know yet."""
        why = self._look()
        self._failures = self._failures + 1 if why else 0
        ready = not why or (self.ready and self._failures < FAILURES)
        if why != self._why:
            tell(why or "ready")
        self._why, self.ready = why, ready
        now = time.monotonic()
        if self._said != ready or now - self._said_at >= AGAIN_S:
            try:
                self._api.label(ready)
                self._said, self._said_at = ready, now
            except (OSError, HTTPException) as error:
                tell(f"label {LABEL}={str(ready).lower()}: {error}; tried again")
        self.seen = time.monotonic()

    def _look(self) -> str:
        """What is wrong, in words; "" if nothing is."""
        for name, port in self.ports.items():
            try:
                fetch(port)
            except (OSError, HTTPException) as error:
                return f"{name} does not answer at 127.0.0.1:{port}: {error}"
        return ""

    @property
    def alive(self) -> bool:
        """Whether the loop turns."""
        return time.monotonic() - self.seen < STUCK_S


def handler(watch: Watch) -> type[BaseHTTPRequestHandler]:
    """Answers probes, and passes metrics on at `/metrics/NAME`."""

    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT_S

        def do_GET(self) -> None:
            """Answers one request."""
            folder, _, name = self.path.rpartition("/")
            if self.path == "/healthz":
                self._answer(200 if watch.alive else 503, b"")
            elif self.path == "/readyz":
                self._answer(200 if watch.ready else 503, b"")
            elif folder == "/metrics" and name in watch.ports:
                try:
                    self._answer(200, fetch(watch.ports[name]))
                except (OSError, HTTPException) as error:
                    self._answer(502, f"{error}\n".encode())
            else:
                self._answer(404, b"not found\n")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes and scrapes are not worth a line."""

    return Handler


def tell(line: str) -> None:
    """One line of the pod's log."""
    sys.stderr.write(f"{line}\n")


def service(word: str) -> tuple[str, int]:
    """A service by its name and port. Raises `ValueError`."""
    name, _, port = word.partition("=")
    return name, int(port)


def parser() -> argparse.ArgumentParser:
    """What the chart may ask for."""
    made = argparse.ArgumentParser(description="Labels this node while the program on it answers.")
    made.add_argument("--port", type=int, default=9865)
    made.add_argument("--every", type=float, default=10.0, metavar="SECONDS")
    made.add_argument("services", nargs="+", type=service, metavar="NAME=PORT")
    return made


def main() -> int:
    """Entry point; returns the exit status. Ends at SIGTERM; the label stays, as what it tells of does."""
    args = parser().parse_args()
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    watch = Watch(dict(args.services), Api(server, os.environ["NODE_NAME"]))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    answers = ThreadingHTTPServer(("", args.port), handler(watch))
    threading.Thread(target=answers.serve_forever, daemon=True).start()
    while not stop.is_set():
        watch.turn()
        stop.wait(args.every)
    return 0


if __name__ == "__main__":
    sys.exit(main())
