"""Real servers for tests, on free ports of the loopback: `docker-registry`, and one that gives out tokens."""

import base64
import contextlib
import json
import random
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

START_S = 120.0
# Below those that Linux gives to connections and to servers without a port of their own.
OWN_PORTS = (16384, 32768)
# So long after its end `docker-registry` still takes a token.
LEEWAY_S = 60


def free_port() -> int:
    """A port of the loopback that nobody listens on just now, and that the kernel gives to nobody."""
    # One of those that it gives out could be a connection's before a server has it, or while that is away.
    ports = random.Random()
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", ports.randrange(*OWN_PORTS)))
            return int(probe.getsockname()[1])


def status(url: str) -> int:
    """The status that a plain GET of `url` is answered with; 0 if nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


class Registry:
    """A running `docker-registry`. `users` makes it ask for Basic, `tokens` for Bearer authentication."""

    def __init__(
        self, directory: Path, *, users: dict[str, str] | None = None, tokens: "TokenServer | None" = None
    ) -> None:
        program = shutil.which("docker-registry")
        assert program, "docker-registry is not installed"
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self.log = directory / "registry.log"
        self.blobs = directory / "data/docker/registry/v2/blobs/sha256"
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(directory / "data")},
                "delete": {"enabled": True},
            },
            "http": {"addr": self.host},
        }
        if users:
            lines = [self._htpasswd(user, password) for user, password in users.items()]
            (directory / "htpasswd").write_text("".join(lines))
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
        if tokens:
            config["auth"] = {"token": tokens.registry_config()}
        # JSON is YAML too.
        (directory / "config.yml").write_text(json.dumps(config))
        self._command = [program, "serve", str(directory / "config.yml")]
        self.start()

    def start(self) -> None:
        """Starts the process, again after `kill`, and waits until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        self._wait()

    def kill(self) -> None:
        """Ends the process at once, as a crash does."""
        self._process.kill()
        self._process.wait()

    @staticmethod
    def _htpasswd(user: str, password: str) -> str:
        command = ["htpasswd", "-nbBC", "4", user, password]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() + "\n"

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while status(f"{self.url}/v2/") not in (200, 401):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"docker-registry does not answer: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def repository(self, name: str) -> str:
        """The base URL of a repository, such as `http://127.0.0.1:5000/v2/team/app`."""
        return f"{self.url}/v2/{name}"

    def stop(self) -> None:
        """Ends the process and waits for it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class TokenServer:
    """Gives out the tokens that a `Registry(tokens=...)` accepts, for the users it knows ("" is anyone).

    `seen` lists the requests by scope; `life_s` is the life of a token as announced, and as signed unless
    `signed_life_s` is changed. `realm` is where a registry sends its clients, if not here. `identity_tokens`
    are traded for tokens by POST.
    """

    def __init__(
        self,
        directory: Path,
        users: dict[str, str],
        *,
        life_s: int = 300,
        realm: str = "",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.users = users
        self.life_s = life_s
        self.identity_tokens: set[str] = set()
        self.signed_life_s = life_s
        self.seen: list[str] = []
        self._key, self._cert = directory / "key.pem", directory / "cert.pem"
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
        ]
        files = ["-keyout", str(self._key), "-out", str(self._cert)]
        subprocess.run([*command, *files], check=True, capture_output=True)
        self._server = serve(self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        self.realm = realm or self.url

    def registry_config(self) -> dict[str, str]:
        """The section `auth.token` of a registry that trusts this server."""
        bundle = str(self._cert)
        return {"realm": self.realm, "service": "test-service", "issuer": "test", "rootcertbundle": bundle}

    def token(self, service: str, scope: str) -> str:
        """A signed token for a scope (`repository:<name>:<actions>`), or for several with blanks between."""
        der = "".join(self._cert.read_text().split("\n")[1:-2])
        now = int(time.time())
        scopes = [each.split(":") for each in scope.split()]
        access = [{"type": kind, "name": name, "actions": what.split(",")} for kind, name, what in scopes]
        times = {"iat": now - 5, "nbf": now - 5, "exp": now + self.signed_life_s}
        claims = {"iss": "test", "sub": "", "aud": service, "jti": str(now), "access": access, **times}
        head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        signature = subprocess.run(command, input=signed, check=True, capture_output=True).stdout
        return (signed + b"." + _base64url(signature)).decode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                scope, service = " ".join(query["scope"]), query["service"][0]
                outer.seen.append(scope)
                sent = self.headers.get("Authorization", "")
                user, _, password = base64.b64decode(sent.removeprefix("Basic ")).decode().partition(":")
                self._give(outer.users.get(user) == password, service, scope)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                outer.seen.append(form["scope"])
                known = (
                    form["grant_type"] == "refresh_token" and form["refresh_token"] in outer.identity_tokens
                )
                self._give(known, form["service"], form["scope"])

            def _give(self, known: bool, service: str, scope: str) -> None:
                if not known:
                    self.answer(401)
                    return
                answer = {"token": outer.token(service, scope), "expires_in": outer.life_s}
                self.answer(200, json.dumps(answer).encode())

        return Handler

    def stop(self) -> None:
        """Stops answering."""
        stop(self._server)

    def __enter__(self) -> "TokenServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that keeps connections and writes no log."""

    protocol_version = "HTTP/1.1"
    # Head and body in one packet: otherwise each answer waits for a delayed acknowledgement.
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def answer(self, code: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """A whole answer."""
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


class QuietServer(ThreadingHTTPServer):
    """A server that takes a client's hanging up as the client's right."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Reports what is not a broken connection."""
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)


def serve(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    """A server on a free port, answering in threads of its own until `stop`."""
    server = QuietServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


def stop(server: ThreadingHTTPServer) -> None:
    """Ends `serve`."""
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """The base URL of a server with that handler, behind TLS if there is a context."""
    server = serve(handler)
    if context:
        # The handshake is left to the thread of the connection: one that fails must not end the server.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        stop(server)


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
