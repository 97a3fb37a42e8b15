"""A registry of the demo's own: Debian's docker-registry on loopback, which counts what it sends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request

from tools.errors import Failure
from tools.obd.demo.workshop import Workshop

# It answers within a second; a machine under load gets some more.
START_TIMEOUT_S = 30.0

CONFIG = """\
version: 0.1
log: {{level: info, formatter: json, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "{address}", secret: demo}}
"""


class Registry:
    """The running registry. `sent` reads its log, so what it says is the server's count, not the client's."""

    def __init__(self, workshop: Workshop) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        self._log = workshop.path("registry.log")
        config = workshop.path("registry.yml")
        with open(config, "w") as file:
            file.write(CONFIG.format(root=workshop.make("registry"), address=self.address))
        with open(self._log, "wb") as log:
            process = workshop.spawn(["docker-registry", "serve", config], log)
        self._wait(process)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            try:
                with opener.open(f"http://{self.address}/v2/", timeout=5):
                    return
            except (OSError, urllib.error.URLError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Failure("obd demo: docker-registry does not start") from None
                time.sleep(0.05)

    def mark(self) -> int:
        """A point in the log to count from."""
        return os.path.getsize(self._log)

    def sent(self, since: int) -> tuple[int, int]:
        """Blob requests answered and bytes of blobs sent since the mark `since`."""
        requests = total = 0
        with open(self._log, "rb") as log:
            log.seek(since)
            for line in log:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                is_blob = "/blobs/" in record.get("http.request.uri", "")
                is_get = record.get("http.request.method") == "GET"
                if is_blob and is_get and record.get("msg") == "response completed":
                    requests += 1
                    total += int(record.get("http.response.written", 0))
        return requests, total


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
