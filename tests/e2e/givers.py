"""What gives out credentials in tests: servers over HTTP, TLS and Unix sockets, and scripts on the PATH."""

import contextlib
import json
import socket
import socketserver
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import HTTPServer
from pathlib import Path
from typing import Any

from tests.e2e import servers


def answer(host: str, user: str = "ann", password: str = "hunter2") -> dict[str, Any]:
    """What a credential server says that has one entry."""
    auths = {host: {"username": user, "password": password}}
    return {"traceId": "t-1", "success": True, "data": {"auths": auths}}


GOOD = answer("h:5000")


class Giver:
    """A credential server: answers what `body` and `status` say, and keeps what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body = json.dumps(GOOD).encode()
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.heads: list[dict[str, str]] = []
        self.before: Callable[[], object] = lambda: None

    def handler(self) -> type[servers.QuietHandler]:
        outer = self

        class Handler(servers.QuietHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.heads.append(dict(self.headers.items()))
                outer.before()
                with contextlib.suppress(OSError):
                    self.answer(outer.status, outer.body, outer.headers)

        return Handler


class UnixServer(socketserver.ThreadingMixIn, HTTPServer):
    """An HTTP server at a socket of the file system."""

    address_family = socket.AF_UNIX
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)

    def get_request(self) -> tuple[Any, Any]:
        return self.socket.accept()[0], ("local", 0)


@contextlib.contextmanager
def at_socket(giver: Giver, path: Path) -> Iterator[None]:
    server = UnixServer(str(path), giver.handler())  # type: ignore[arg-type]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def certificates(home: Path) -> None:
    """Two authorities in `home`, `ca` and `other`, and certificates of the first: `server` and `client`.

    `both.pem` has the client's certificate and key, `locked.key` its key under a passphrase.
    """
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    leaf = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    signed = [*leaf, "-CA", str(home / "ca.pem"), "-CAkey", str(home / "ca.key")]
    for name, options in (("ca", []), ("other", []), ("server", signed), ("client", signed)):
        files = ["-out", str(home / f"{name}.pem"), "-keyout", str(home / f"{name}.key")]
        command = [*make, "-subj", f"/CN={name}", *files, *options]
        subprocess.run(command, check=True, capture_output=True)
    both = (home / "client.pem").read_text() + (home / "client.key").read_text()
    (home / "both.pem").write_text(both)
    locked = ["openssl", "rsa", "-aes256", "-passout", "pass:x", "-in", str(home / "client.key")]
    subprocess.run([*locked, "-out", str(home / "locked.key")], check=True, capture_output=True)


@contextlib.contextmanager
def mutual_tls(giver: Giver, home: Path) -> Iterator[str]:
    """The base URL of a server that wants a certificate of `ca` to be shown."""
    server = servers.serve(giver.handler())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / "server.pem", home / "server.key")
    context.load_verify_locations(home / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    # TLS 1.3 tells a client only later that its certificate is refused.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    try:
        yield f"https://127.0.0.1:{server.server_port}/auth"
    finally:
        servers.stop(server)


def script(path: Path, text: str) -> Path:
    """A shell script that can be run."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def helper(directory: Path, name: str, user: str, secret: str = "hunter2") -> Path:
    """A helper of Docker that knows all servers; what it was asked is in `NAME.asked`, a line each."""
    said = json.dumps({"ServerURL": "x", "Username": user, "Secret": secret})
    asked = directory / f"{name}.asked"
    asked.touch()
    text = f"server=$(cat); echo \"$1 $server\" >> {asked}; echo '{said}'"
    script(directory / f"docker-credential-{name}", text)
    return asked


PROVIDER = """
log={log}; echo "$@" "$REGION" >> $log; cat >> $log; echo >> $log
cat {answer}
"""


class Node:
    """A node with kubelet credential providers: their configuration, programs and what those were asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "providers"
        self.bin.mkdir()
        self.file = directory / "providers.yaml"
        self.entries: list[dict[str, Any]] = []

    def add(self, name: str, patterns: list[str], auth: object, **response: object) -> None:
        answer = self.directory / f"{name}.answer"
        version = "credentialprovider.kubelet.k8s.io/v1"
        content = {"apiVersion": version, "kind": "CredentialProviderResponse", "cacheKeyType": "Registry"}
        answer.write_text(json.dumps({**content, "auth": auth, **response}))
        script(self.bin / name, PROVIDER.format(log=self.directory / f"{name}.log", answer=answer))
        self.entries.append(
            {
                "name": name,
                "matchImages": patterns,
                "defaultCacheDuration": "1h0m0s",
                "apiVersion": version,
                "args": ["get", "-v"],
                "env": [{"name": "REGION", "value": "eu"}],
            }
        )
        self.write()

    def write(self) -> None:
        kind = {"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig"}
        self.file.write_text(json.dumps({**kind, "providers": self.entries}))

    def settings(self) -> dict[str, str]:
        """The object `credentialConfig` for this node."""
        return {"mode": "kubelet", "path": str(self.file), "bin_dir": str(self.bin)}

    def asked(self, name: str) -> list[str]:
        log = self.directory / f"{name}.log"
        return [line for line in log.read_text().splitlines() if line] if log.exists() else []
