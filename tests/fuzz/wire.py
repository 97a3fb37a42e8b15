"""Fuzz targets of dialogues: registries, clients of the API, the kernel, other processes of ours."""

from __future__ import annotations

import io
import socket
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

import requests
import urllib3

from obd import http_server
from obd.api.routes import Call, Routes
from obd.attach import nbd_link
from obd.challenge import choose, parse
from obd.config.schema import Table, flag, integer, text
from obd.credentials import Credential, CredentialSource
from obd.daemon import handover
from obd.daemon.target import Target as Wanted
from obd.errors import ObdError
from obd.http_server import Answer, Request
from obd.oci.name import parse_name
from obd.oci.patience import Answer as Said
from obd.oci.patience import number, pause_s, refusal
from obd.oci.upload import _next, _received
from obd.redirect import follow
from obd.reference import parse_reference
from obd.registry import Registry
from tcmu import genetlink
from tcmu.uio import Device
from tests.fuzz.documents import BLOB_URL, DIGEST
from tests.fuzz.target import Target


class _Fixed(CredentialSource):
    def lookup(self, blob_url: str) -> Credential | None:
        return Credential("user", "secret")

    def describe(self) -> str:
        return "fixed"


class _Script:
    """A session whose answers are those of an input, one after the other; then there are no more."""

    def __init__(self, data: bytes) -> None:
        self._answers: Final = data.split(b"\n---\n")

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        if not self._answers:
            raise requests.exceptions.ConnectionError("the end of the input")
        head, _, body = self._answers.pop(0).partition(b"\n\n")
        status, *lines = head.decode("latin-1").split("\n")
        fields = [line.partition(":")[::2] for line in lines if ":" in line]
        headers = urllib3.HTTPHeaderDict((name.strip(), value.strip()) for name, value in fields)
        response = requests.Response()
        response.status_code = (
            int(status) if status.isdecimal() and len(status) == 3 and status.isascii() else 200
        )
        response.headers = requests.structures.CaseInsensitiveDict(headers)
        response.url = url
        response.raw = urllib3.HTTPResponse(
            io.BytesIO(body), headers=headers, status=response.status_code, preload_content=False
        )
        return response


def registry(data: bytes) -> None:
    """Challenge, token, redirect, as answers that follow one another."""
    session: Any = _Script(data)
    registry = Registry(_Fixed())
    from obd.token import TokenCache

    registry._speech = session, TokenCache(session)
    with mock.patch.object(threading.Thread, "start", lambda _: None):
        found = registry.resolve(BLOB_URL)
    assert found is None or found.url.isprintable()


def token(data: bytes) -> None:
    from obd.token import TokenCache, TokenKey

    session: Any = _Script(b"200\n\n" + data.replace(b"\n---\n", b""))
    cache = TokenCache(session, clock=lambda: 1000.0)
    found = cache.get(TokenKey("https://auth.example/token", "service", "repository:a:pull", None))
    assert found.since < found.until and found.header().isprintable()


def challenge(data: bytes) -> None:
    chosen = choose(parse(data.decode("latin-1").split("\n")))
    assert chosen is None or chosen.scheme in ("basic", "bearer")


def redirect(data: bytes) -> None:
    location, _, url = data.decode("utf-8", "surrogateescape").partition("\n")
    found = follow(BLOB_URL, location, url or BLOB_URL)
    assert found is None or (found.url.startswith(("http:", "https:")) and found.url.isprintable())
    if found is not None:
        found.expired()


def answer(data: bytes) -> None:
    """What answers to pushes say: numbers, ranges, places, why not."""
    head, _, body = data.partition(b"\n\n")
    lines = [line.partition(":")[::2] for line in head.decode("latin-1").split("\n") if ":" in line]
    said = Said(400 + len(lines) % 100, BLOB_URL, {name: value.strip() for name, value in lines}, body)
    assert refusal("PUT", said).line.isprintable()
    found = number(said.header("Content-Length"))
    assert found is None or 0 <= found < 10**16
    assert 0 < pause_s(1, said.header("Retry-After")) <= 15
    received = _received(Said(204, BLOB_URL, said.headers, b""))
    assert received is None or received >= 0
    _next(said)


def names(data: bytes) -> None:
    word = data.decode("utf-8", "surrogateescape")
    found = parse_reference(word)
    if found is not None:
        assert found.url.isascii() and found.url.isprintable()
        # One name, one place: what stands for it names it again.
        repository = found.url.replace("/v2/", "/", 1)
        again = parse_reference(
            repository + (f":{found.tag}" if found.tag else "") + (f"@{found.digest}" if found.digest else "")
        )
        assert again == found, f"{found} becomes {again}"
    parse_name(word)


class _Connection:
    """A connection of which all that comes is known."""

    family = socket.AF_UNIX

    def __init__(self, data: bytes) -> None:
        self._data: Final = io.BytesIO(data)
        self.sent: Final = bytearray()

    def recv_into(self, buffer: Any) -> int:
        return self._data.readinto(buffer)

    def recv(self, length: int, *_: int) -> bytes:
        return self._data.read(length)

    def sendall(self, data: Any) -> None:
        self.sent.extend(data)

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO()

    def settimeout(self, _: float | None) -> None: ...

    def shutdown(self, _: int) -> None: ...

    def getsockname(self) -> str:
        return "/socket"


class _Waits:
    """The server of such connections."""

    def __init__(self, routes: Routes) -> None:
        self.handle_one: Final = routes.answer

    def waits(self, connection: object, idle: bool) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body(Table):
    config: str = text("config")
    size_bytes: int = integer("size_bytes", 0, 0, 1 << 64)
    rw: bool = flag("rw", False)


def _routes() -> Routes:
    routes = Routes()
    routes.add("GET", "/v1/devices", lambda call: {"devices": call.request.query})
    routes.add("POST", "/v1/devices/{device}/resize", _posted)
    routes.add("DELETE", "/v1/attachments/{attachment}", lambda call: Answer(204, b"", ""))
    routes.add_prefix("/snapshot", lambda request: Answer(200, b"done"))
    return routes


def _posted(call: Call) -> dict[str, Any]:
    body = call.body(_Body)
    return {"device": call.values["device"], "body": [body.config, body.size_bytes, body.rw]}


def _logged(*_: object) -> None:
    raise SystemError("an exception that nobody expected was logged")


def api(data: bytes) -> None:
    """Requests to the API: each is answered, and no route raises what it must not."""
    connection, server = _Connection(data), _Waits(_routes())
    handle = server.handle_one

    def handled(request: Request) -> Answer:
        try:
            return handle(request)
        except Exception as error:
            raise SystemError(f"a route raised {error!r}") from error

    by: Any = connection
    given: Any = SimpleNamespace(handle_one=handled, waits=server.waits)
    with mock.patch.object(http_server._log, "exception", _logged):
        http_server._Exchange(by, ("local", 0), given)
    assert not connection.sent or connection.sent.startswith((b"HTTP/1.", b"{"))


def netlink(data: bytes) -> None:
    """What the kernel says: messages, and attributes in attributes."""
    for _, _, body in genetlink.messages(data):
        found = genetlink.attributes(body[genetlink.COMMAND.size :])
        for kind, value in found.items():
            genetlink.number(found, kind)
            genetlink.text(value)
            genetlink.attributes(value)


def backstore(data: bytes) -> None:
    """Names and configuration strings of TCMU devices."""
    name, _, number = data.decode("utf-8", "surrogateescape").partition("\n")
    device = Device.parse(len(number), name)
    if device is not None:
        Wanted.of(device)


def nbd_greeting(data: bytes) -> None:
    connection: Any = _Connection(data)
    size, flags = nbd_link._ask_for_export(connection, "/socket")
    assert 0 <= size < 1 << 64 and 0 <= flags < 1 << 16


def succession(data: bytes) -> None:
    """What the daemon before us says at the handover socket."""
    connection: Any = _Connection(data)
    said = handover._said(connection)
    if said:
        assert ObdError("busy", said).line.isprintable()


_TOKENS: Final = (
    b'Bearer realm="https://auth.example/token",service="s",scope="repository:a:pull"',
    b"Basic realm=x",
    b"http://[",
    b"https://",
)
_LINK: Final = (
    b"https://store.example/x?X-Amz-Date=20240101T000000Z&X-Amz-Expires=3600"
    b"&Expires=99999999999&se=2099-01-01T00:00:00Z"
)
_TOKEN_ANSWER: Final = (
    b'{"token": "abc", "access_token": "abc", "expires_in": 300, "issued_at": "2024-01-01T00:00:00Z"}'
)
_DIALOGUE: Final = (
    b'401\nWWW-Authenticate: Bearer realm="https://auth.example/token",service="s"\n\n\n---\n200\n\n'
    + _TOKEN_ANSWER
    + b"\n---\n307\nLocation: "
    + _LINK
    + b"\n\n",
    b"401\nWWW-Authenticate: Basic realm=x\n\n\n---\n206\nContent-Range: bytes 0-0/100\n\nx",
)
_PUSH: Final = b"""Content-Length: 100
Retry-After: 3
Range: 0-99
Location: /v2/team/app/blobs/uploads/1?state=x

{"errors": [{"code": "DENIED", "message": "no"}]}"""
_REQUESTS: Final = (
    b"GET /v1/devices?a=b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /v1/devices/a%20b/resize HTTP/1.1\r\nHost: x\r\nContent-Length: 21\r\n\r\n"
    + b'{"size_bytes": 40960}'
    + b"HEAD / HTTP/1.0\r\n\r\n",
    b"DELETE /v1/attachments/x HTTP/1.1\r\nAuthorization: Bearer x\r\nConnection: close\r\n\r\n",
)
_REQUEST_WORDS: Final = (
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"\r\n",
    b"%ff",
    b" HTTP/0.9",
    b"/v1/devices/",
    b"?",
    b"//",
    b"http://[",
)
_ATTRIBUTES: Final = genetlink.attribute(1, b"overlaybd/x\0") + genetlink.attribute(
    2, genetlink.attribute(1, b"\1\0\0\0")
)
_MESSAGE: Final = (
    genetlink.HEADER.pack(genetlink.HEADER.size + 4 + len(_ATTRIBUTES), 30, 0, 1, 2) + bytes(4) + _ATTRIBUTES
)
_GREETING: Final = (
    b"NBDMAGICIHAVEOPT\0\3"
    + nbd_link._REPLY.pack(0x3E889045565A9, 7, 3, 12)
    + b"\0\0"
    + nbd_link._EXPORT.pack(1 << 30, 1)
    + nbd_link._REPLY.pack(0x3E889045565A9, 7, 1, 0)
)

TARGETS: Final = (
    Target("registry", registry, _DIALOGUE, (*_TOKENS, _LINK, b"\n---\n", b"\n\n")),
    Target("token", token, (_TOKEN_ANSWER,)),
    Target("challenge", challenge, _TOKENS[:2], (b'"', b"\\", b",", b"=", b" ")),
    Target("redirect", redirect, (_LINK, b"/v2/x\nhttp://h/"), (b"&", b"?", b"://", b"9" * 400, b"[")),
    Target("answer", answer, (_PUSH,), (b"Range: 0-", b"Location: http://[")),
    Target(
        "names",
        names,
        (b"docker://debian:12", f"https://h:5000/team/app:v1@{DIGEST}".encode(), b"oci:dir:tag"),
        (b":", b"@", b"/", b"[::1]", b"docker.io"),
    ),
    Target("api", api, _REQUESTS, _REQUEST_WORDS),
    Target("netlink", netlink, (_MESSAGE, _MESSAGE * 2)),
    Target(
        "backstore",
        backstore,
        (b"tcm-user/0/name/overlaybd//image/config.v1.json;id\n1",),
        (b"/", b";"),
        (ValueError, ObdError),
    ),
    Target("nbd_greeting", nbd_greeting, (_GREETING,)),
    Target("succession", succession, (b"a device is in use", b"")),
)
