"""A registry with all that belongs to it, each part well-behaved until a script says otherwise."""

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.faults.server import Exchange, Header, Server
from tests.e2e.tls import Authority

USER, PASSWORD = "ann", "hidden-password"
REPOSITORY = "team/app"
# The shortest life of a token.
LIFE_S = 1.1


class Call:
    """A request to one part of a site. `first` and `last` are the range asked for, inside the blob."""

    def __init__(self, site: "Site", exchange: Exchange) -> None:
        self.site = site
        self.x = exchange
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", exchange.headers.get("range", ""))
        end = len(site.data) - 1
        self.first, self.last = (int(asked[1]), min(int(asked[2]), end)) if asked else (0, end)
        self.authorization = exchange.headers.get("authorization", "")

    @property
    def body(self) -> bytes:
        """The bytes asked for."""
        return self.site.data[self.first : self.last + 1]

    def range(
        self, first: int | None = None, last: int | None = None, total: int | str | None = None
    ) -> Header:
        """A Content-Range: the right one but for what is given."""
        first = self.first if first is None else first
        last = self.last if last is None else last
        total = len(self.site.data) if total is None else total
        return "Content-Range", f"bytes {first}-{last}/{total}"

    def part(self, body: bytes | None = None, range_: Header | None = None) -> None:
        """The right 206, but for what is given."""
        self.x.answer(206, [range_ or self.range()], self.body if body is None else body)

    def promise(self, length: int | None = None) -> None:
        """The head of the right 206, so that the caller sends the body as it likes."""
        length = len(self.body) if length is None else length
        self.x.head(206, [self.range(), ("Content-Length", str(length))])

    def status(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"{}") -> None:
        """Another status than a good one."""
        self.x.answer(status, list((headers or {}).items()), body)

    def redirect(self, location: str, status: int = 307) -> None:
        """Sends the client elsewhere."""
        self.status(status, {"Location": location}, b"")


Action = Callable[[Call], None]
# What a part does to a connection before it reads from it; false if nothing shall be read.
Greeting = Callable[[socket.socket], bool]


@dataclass
class Script:
    """What goes wrong in one part: `faults` one after the other, then `lasting`, else nothing."""

    faults: list[Action] = field(default_factory=list)
    lasting: Action | None = None
    seen: int = 0

    def next(self) -> Action | None:
        self.seen += 1
        return self.faults.pop(0) if self.faults else self.lasting


class Site:
    """A registry of one blob, `data`, with the parts that are asked for; a context that stops them all.

    Parts are `blob` (the registry itself) and `token` on one server; `store`, `mirror` and `proxy` on one
    each. `auth` is "", "basic" or "bearer"; `redirects` sends readers to the store by signed links; `secure`
    puts the registry behind TLS with a certificate of `authority`.
    """

    def __init__(
        self,
        data: bytes,
        digest: str,
        *,
        auth: str = "",
        redirects: bool = False,
        secure: bool = False,
        authority: Authority | None = None,
    ) -> None:
        self.data = data
        self.digest = digest
        self.auth = auth
        self.redirects = redirects
        self._authority = authority
        self.tokens: set[str] = set()
        self.links: set[str] = set()
        self.scripts = {part: Script() for part in ("blob", "token", "store", "mirror", "proxy")}
        # What is done to the next connections to the registry, and then to all others.
        self.greetings: list[Greeting] = []
        self.greeting: Greeting | None = None
        # What each part got as Authorization.
        self.authorizations: dict[str, list[str]] = {part: [] for part in self.scripts}
        self._issued = 0
        self._token_at = 0.0
        self._lock = threading.Lock()
        self._servers: dict[str, Server] = {}
        self.registry = self.server("registry", context=self.authority.context() if secure else None)

    def server(self, name: str, **options: Any) -> Server:
        """The server `name`, started when it is first asked for."""
        with self._lock:
            found = self._servers.get(name)
            if found is None:
                part = None if name == "registry" else name
                greet = self._greet if name == "registry" else lambda _: True
                found = Server(lambda x: self._handle(part, x), accepted=greet, **options)
                self._servers[name] = found
            return found

    @property
    def authority(self) -> Authority:
        """Who signed the registry's certificate."""
        assert self._authority
        return self._authority

    @property
    def host(self) -> str:
        """The registry's host and port."""
        return f"127.0.0.1:{self.registry.port}"

    def shown(self, text: str) -> str:
        """`text` with the names of servers in it: `{url}` of the blob, `{host}`, `{mirror}`, `{proxy}`."""
        names = {"{url}": self.blob_url, "{host}": self.host}
        for part in ("mirror", "proxy"):
            if part in self._servers:
                names[f"{{{part}}}"] = self.server(part).url
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    @property
    def repository_url(self) -> str:
        """What `repoBlobUrl` says."""
        return f"{self.registry.url}/v2/{REPOSITORY}/blobs"

    @property
    def blob_url(self) -> str:
        """Where the blob is, to those who believe the registry."""
        return f"{self.repository_url}/{self.digest}"

    @property
    def blob_path(self) -> str:
        """The path of that URL."""
        return f"/v2/{REPOSITORY}/blobs/{self.digest}"

    def link(self, name: str = "127.0.0.1") -> str:
        """A new signed link to the object store."""
        with self._lock:
            self._issued += 1
            signature = f"hidden-signature-{self._issued}"
            self.links.add(signature)
        return f"http://{name}:{self.server('store').port}/bucket/object?signature={signature}"

    def _greet(self, connection: socket.socket) -> bool:
        with self._lock:
            greeting = self.greetings.pop(0) if self.greetings else self.greeting
        return greeting(connection) if greeting else True

    def _handle(self, part: str | None, exchange: Exchange) -> None:
        part = part or ("token" if exchange.path.startswith("/token") else "blob")
        call = Call(self, exchange)
        with self._lock:
            action = self.scripts[part].next()
            self.authorizations[part].append(call.authorization)
        (action or getattr(self, part))(call)

    def heal(self) -> None:
        """From now on nothing goes wrong any more."""
        with self._lock:
            for script in self.scripts.values():
                script.faults, script.lasting = [], None
            self.greetings.clear()
            self.greeting = None
        # What waits for an answer that never comes gets an end.
        for server in self._servers.values():
            server.refuse()
            server.listen()

    # The well-behaved parts.

    def blob(self, call: Call) -> None:
        """Asks for credentials if it has to, then serves the range or says where it is."""
        challenge = self.challenge(call)
        if challenge:
            call.status(401, {"WWW-Authenticate": challenge})
        elif self.redirects:
            call.redirect(self.link())
        else:
            call.part()

    def expire_tokens(self, call: Call) -> None:
        """All tokens given out so far have expired. Each had a life, if a short one."""
        call.x.server.ended.wait(self._token_at + LIFE_S - time.monotonic())
        self.tokens.clear()

    def challenge(self, call: Call) -> str:
        """What `call` has to answer first; "" if it may pass."""
        if self.auth == "basic" and call.authorization != basic(USER, PASSWORD):
            return 'Basic realm="registry"'
        if self.auth == "bearer" and call.authorization.removeprefix("Bearer ") not in self.tokens:
            return self.bearer()
        return ""

    def bearer(self) -> str:
        """The challenge that sends to the token server."""
        scope = f"repository:{REPOSITORY}:pull"
        return f'Bearer realm="{self.registry.url}/token",service="test",scope="{scope}"'

    def token(self, call: Call, life_s: float = 300, name: str = "token") -> None:
        """Gives out a token to the one user."""
        if call.authorization != basic(USER, PASSWORD):
            call.status(401)
            return
        with self._lock:
            self._issued += 1
            token = f"hidden-token-{self._issued}"
            self.tokens.add(token)
            self._token_at = time.monotonic()
        call.x.answer(200, body=json.dumps({name: token, "expires_in": life_s}).encode())

    def store(self, call: Call) -> None:
        """Serves ranges to those with a link that is good."""
        if call.x.target.partition("?signature=")[2] in self.links:
            call.part()
        else:
            call.status(403, body=b"<Error><Code>AccessDenied</Code></Error>")

    def mirror(self, call: Call) -> None:
        """Serves ranges to anybody."""
        call.part()

    proxy = mirror

    def stop(self) -> None:
        """Stops all servers."""
        for server in self._servers.values():
            server.stop()

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def basic(user: str, password: str) -> str:
    """The value of an `Authorization` header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
