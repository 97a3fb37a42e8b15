"""A real nginx before a real registry: TLS edge, object store behind signed links, limits."""

import base64
import hashlib
import math
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e import servers
from tests.e2e.tls import Authority

# What signs the links of the object store; it is in none of them.
LINK_SECRET = "secret-of-the-store"


@dataclass
class Store:
    """How the object store behaves: links are good for `life_s` seconds, and say so only if they `tell`.

    `links` counts those given out.
    """

    life_s: float = 600
    tell: bool = True
    links: int = 0


class Edge:
    """nginx as a registry's edge at `https://NAME:port` (`name`, 127.0.0.1 and ::1 are in its certificate).

    Blobs are read from the registry itself, or with `store` from the registry's files after a redirect to
    a signed link. `client_certificates`: who has none of the authority gets 400. `rate`: blob requests a
    second; more get 429. `requests_per_connection`: after so many a connection is closed.

    The address is known before the registry behind it runs, since that has to be told where its token server
    is: make the edge, then the servers, then `start`.
    """

    def __init__(
        self,
        directory: Path,
        authority: Authority,
        *,
        store: Store | None = None,
        client_certificates: bool = False,
        rate: int = 0,
        requests_per_connection: int = 1000,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._authority = authority
        self._client_certificates = client_certificates
        self._rate = rate
        self._requests_per_connection = requests_per_connection
        self._process: subprocess.Popen[bytes] | None = None
        self._signer: Signer | None = None
        self.store = store
        self.port, self.store_port = servers.free_port(), servers.free_port()
        self.log = directory / "access.log"

    @property
    def url(self) -> str:
        """Where the registry is, for everybody."""
        return f"https://localhost:{self.port}"

    def start(self, registry: servers.Registry, tokens: servers.TokenServer | None = None) -> None:
        """Starts nginx before these two; returns when it answers."""
        if self.store:
            self._signer = Signer(registry, f"https://localhost:{self.store_port}", self.store)
        config = self._directory / "nginx.conf"
        config.write_text(self._config(registry, tokens))
        errors = self._directory / "error.log"
        command = ["nginx", "-p", str(self._directory), "-c", str(config), "-e", str(errors)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + servers.START_S
        while not _accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"nginx does not start: {errors.read_text()[-2000:]}")
            time.sleep(0.02)

    def requests(self) -> list[str]:
        """What has been asked so far, one line each: `METHOD PATH STATUS`."""
        # A line comes after the answer that it tells of, but before any further answer.
        context = ssl.create_default_context(cafile=self._authority.file)
        urllib.request.urlopen(f"{self.url}/logged", timeout=servers.START_S, context=context).close()
        return self.log.read_text().splitlines()

    def stop(self) -> None:
        """Ends nginx and what belongs to it."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._signer:
            self._signer.stop()

    def __enter__(self) -> "Edge":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _config(self, registry: servers.Registry, tokens: servers.TokenServer | None) -> str:
        cert, key = self._authority.sign("server")
        tls = f"ssl_certificate {cert}; ssl_certificate_key {key};"
        if self._client_certificates:
            tls += f" ssl_verify_client on; ssl_client_certificate {self._authority.file};"
        blobs = self._signer.url if self._signer else registry.url
        limit = "limit_req zone=blobs burst=5 nodelay; limit_req_status 429;" if self._rate else ""
        zone = f"limit_req_zone all zone=blobs:1m rate={self._rate}r/s;" if self._rate else ""
        token = f"location = /token {{ proxy_pass {tokens.url}; }}" if tokens else ""
        return f"""
            daemon off;
            master_process off;
            pid nginx.pid;
            events {{ worker_connections 512; }}
            http {{
                log_format short '$request_method $uri $status';
                access_log access.log short;
                client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u;
                scgi_temp_path s;
                client_max_body_size 0;
                keepalive_requests {self._requests_per_connection};
                proxy_set_header Host $http_host;
                proxy_set_header X-Forwarded-Proto $scheme;
                proxy_buffering off;
                {zone}
                server {{
                    listen 127.0.0.1:{self.port} ssl;
                    listen [::1]:{self.port} ssl;
                    {tls}
                    error_page 429 @slower;
                    location @slower {{ add_header Retry-After 1 always; return 429; }}
                    location ~ ^/v2/.*/blobs/sha256: {{ {limit} proxy_pass {blobs}; }}
                    location /v2/ {{ proxy_pass {registry.url}; }}
                    location = /logged {{ access_log off; return 204; }}
                    {token}
                }}
                server {{
                    listen 127.0.0.1:{self.store_port} ssl;
                    listen [::1]:{self.store_port} ssl;
                    ssl_certificate {cert}; ssl_certificate_key {key};
                    secure_link $arg_signature,$arg_until$arg_expires;
                    secure_link_md5 "$secure_link_expires$uri {LINK_SECRET}";
                    location / {{
                        if ($http_authorization) {{ return 400; }}
                        if ($secure_link = "") {{ return 403; }}
                        if ($secure_link = "0") {{ return 410; }}
                        root {registry.blobs};
                    }}
                }}
            }}
        """


class Signer:
    """Answers requests for blobs as a registry with an object store does: whom it lets in is sent there."""

    def __init__(self, registry: servers.Registry, store_url: str, store: Store) -> None:
        class Handler(servers.QuietHandler):
            def do_GET(self) -> None:
                asked = urllib.request.Request(registry.url + self.path, method="HEAD")
                for name in ("Authorization", "Host"):
                    if name in self.headers:
                        asked.add_header(name, self.headers[name])
                try:
                    urllib.request.urlopen(asked, timeout=10).close()
                except urllib.error.HTTPError as error:
                    error.close()
                    challenge = error.headers["WWW-Authenticate"]
                    self.answer(error.code, b"{}", {"WWW-Authenticate": challenge} if challenge else {})
                    return
                digest = urlsplit(self.path).path.rpartition(":")[2]
                self.answer(307, b"", {"Location": store_url + link(digest, store)})

            do_HEAD = do_GET

        self._server = servers.serve(Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Stops answering."""
        servers.stop(self._server)


def link(digest: str, store: Store) -> str:
    """A link to a blob, good for a while, as `secure_link` of nginx checks it."""
    store.links += 1
    path = f"/{digest[:2]}/{digest}/data"
    until = math.ceil(time.time() + store.life_s)
    signed = hashlib.md5(f"{until}{path} {LINK_SECRET}".encode()).digest()
    signature = base64.urlsafe_b64encode(signed).rstrip(b"=").decode()
    return f"{path}?signature={signature}&{'expires' if store.tell else 'until'}={until}"


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False
