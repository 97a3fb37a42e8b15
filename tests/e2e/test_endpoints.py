"""Blobs through mirrors and proxies of all kinds: right bytes from whoever has them, within one deadline."""

import http.client
import json
import os
import random
import re
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import obdcore
from obd.config import parse_service
from obd.credentials import Credential, CredentialSource
from obd.endpoints import P2p
from obd.registry import Registry
from obd.service import Service
from obd.tls import USUAL, Tls
from tests.e2e import servers
from tests.e2e.tls import Authority

SIZE = 1_000_003
DATA = random.Random(9).randbytes(SIZE)
# A path or URL that was asked for, and the credentials sent along.
Seen = tuple[str, str | None]
PATH = "/v2/team/app/blobs/sha256:" + "0" * 64


class Origin(servers.QuietHandler):
    """Serves DATA by ranges; what it saw is kept in `seen`."""

    seen: list[Seen]
    user: Credential | None = None
    link: str | None = None

    def do_GET(self) -> None:
        sent = self.headers.get("Authorization")
        self.seen.append((self.path, sent))
        if self.user and sent != self.user.basic():
            self.answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
        elif self.link is not None:
            self.answer(307, b"", {"Location": self.link})
        else:
            self.give(DATA)

    def give(self, data: bytes) -> None:
        first, last = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
        body = data[first : last + 1]
        self.answer(206, body, {"Content-Range": f"bytes {first}-{first + len(body) - 1}/{len(data)}"})


class Proxy(servers.QuietHandler):
    """A P2P proxy: takes URLs as its path's end (prefix), as its target, or hosts to CONNECT to."""

    seen: list[Seen]
    fault = ""

    def do_GET(self) -> None:
        url = self.path.removeprefix("/accelerator/")
        self.seen.append((url, self.headers.get("Authorization")))
        if self.fault == "broken":
            self.answer(502)
            return
        if self.fault == "silent":
            select.select([self.connection], [], [], 30)
            return
        parts = urlsplit(url)
        there = http.client.HTTPConnection(parts.netloc)
        names = ("Range", "Authorization")
        headers = {name: self.headers[name] for name in names if name in self.headers}
        there.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        answer = there.getresponse()
        back = ("Content-Range", "Location", "WWW-Authenticate")
        headers = {name: answer.headers[name] for name in back if name in answer.headers}
        self.answer(answer.status, answer.read(), headers)
        there.close()

    def do_CONNECT(self) -> None:
        self.seen.append((self.path, None))
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port))) as there:
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            pair = {self.connection: there, there: self.connection}
            while True:
                # What TLS has decoded already no descriptor tells of.
                ready = [end for end in pair if isinstance(end, ssl.SSLSocket) and end.pending()]
                for end in ready or select.select(list(pair), [], [], 30)[0]:
                    data = end.recv(65536)
                    if not data:
                        self.close_connection = True
                        return
                    pair[end].sendall(data)


class Places:
    """Servers of one test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def start(self, kind: type[servers.QuietHandler], **members: object) -> tuple[str, Any, list[Seen]]:
        """Its base URL, its handler (to change what it does), and what it sees."""
        seen: list[Seen] = []
        handler = type(kind.__name__, (kind,), {"seen": seen, **members})
        url = self._stack.enter_context(servers.serving(handler))
        return url, handler, seen


@pytest.fixture
def places() -> Iterator[Places]:
    with ExitStack() as stack:
        yield Places(stack)


class Users(CredentialSource):
    """A user for each host."""

    def __init__(self, users: dict[str, Credential]) -> None:
        self.users = users

    def lookup(self, blob_url: str) -> Credential | None:
        return self.users.get(urlsplit(blob_url).netloc)

    def describe(self) -> str:
        return "the test"


def read(blob: obdcore.RemoteBlob) -> None:
    assert blob.read_at(0, SIZE) == DATA


def test_a_mirror_first_and_each_with_its_own_credentials(places: Places) -> None:
    ann, bob = Credential("ann", "a"), Credential("bob", "b")
    mirror, _, at_mirror = places.start(Origin, user=ann)
    origin, _, at_origin = places.start(Origin, user=bob)
    users = Users({urlsplit(mirror).netloc: ann, urlsplit(origin).netloc: bob})
    registry = Registry(users, mirrors={urlsplit(origin).netloc: [mirror]})
    read(registry.open_blob(origin + PATH, size=SIZE))
    assert not at_origin and {sent for _, sent in at_mirror} == {None, ann.basic()}
    # The mirror does not let us in any more: the registry does.
    users.users.pop(urlsplit(mirror).netloc)
    read(Registry(users, mirrors={urlsplit(origin).netloc: [mirror]}).open_blob(origin + PATH, size=SIZE))
    assert {sent for _, sent in at_origin} == {None, bob.basic()}


@pytest.mark.parametrize("fault", ["nobody", "404", "500", "lies about the length"])
def test_a_mirror_that_does_not_give_the_blob(
    places: Places, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("FIRST_PAUSE_S", "LONGEST_PAUSE_S"):
        monkeypatch.setattr(f"obd.endpoints.{pause}", 60.0)

    class Bad(Origin):
        def do_GET(self) -> None:
            self.seen.append((self.path, None))
            if fault.isdecimal():
                self.answer(int(fault))
            else:
                self.give(DATA[:1000])

    origin, _, at_origin = places.start(Origin)
    mirror, _, at_mirror = places.start(Bad)
    if fault == "nobody":
        mirror = f"http://127.0.0.1:{servers.free_port()}"
    blob = Registry(mirrors={urlsplit(origin).netloc: [mirror]}).open_blob(origin + PATH, size=SIZE)
    for _ in range(5):
        read(blob)
    assert len(at_mirror) == (fault != "nobody"), "it is left alone for a while"
    assert len(at_origin) == 5 and blob.stats()["failures"] == 1


def test_of_two_endpoints_one_lies(places: Places, tmp_path: Path) -> None:
    raw, layer = tmp_path / "raw", tmp_path / "layer"
    raw.write_bytes(random.Random(1).randbytes(1 << 20))
    with raw.open("rb") as source, layer.open("xb") as target:
        obdcore.lsmt_import(source.fileno(), 1 << 20, target.fileno(), compress={"algorithm": "lz4"})
    good = layer.read_bytes()
    bad = bytearray(good)
    for at in range(200_000, 800_000, 5000):
        bad[at] ^= 1

    class Good(Origin):
        def do_GET(self) -> None:
            self.give(good)

    class Liar(Origin):
        def do_GET(self) -> None:
            self.seen.append((self.path, None))
            self.give(bytes(bad))

    for n, kinds in enumerate([(Liar, Good), (Good, Liar)]):
        mirror, origin = (places.start(kind)[0] for kind in kinds)
        cache = obdcore.ChunkCache(str(tmp_path / f"cache{n}"), 1 << 30, 65536, min_free_bytes=0)
        registry = Registry(mirrors={urlsplit(origin).netloc: [mirror]})
        blob = registry.open_blob(origin + PATH, size=len(good), cache=cache)
        image = obdcore.Image([blob], None)
        assert image.read_at(0, 1 << 20) == raw.read_bytes()


@pytest.mark.parametrize("mode", ["prefix", "proxy"])
def test_through_a_p2p_proxy(places: Places, mode: str) -> None:
    bob = Credential("bob", "b")
    store, _, at_store = places.start(Origin)
    origin, handler, _ = places.start(Origin, user=bob)
    proxy, _, at_proxy = places.start(Proxy)
    address = proxy.removeprefix("http://").replace("127.0.0.1", "localhost") + "/accelerator"
    users = Users({urlsplit(origin).netloc: bob})
    read(Registry(users, p2p=P2p(address, mode)).open_blob(origin + PATH, size=SIZE))
    assert at_proxy[-1:] == [(origin + PATH, bob.basic())]
    # A link to another host is told to the proxy, without what is for the registry only.
    handler.link = f"{store}/x?sig=1"
    blob = Registry(users, p2p=P2p(address, mode)).open_blob(origin + PATH, size=SIZE)
    read(blob)
    assert at_proxy[-1:] == [(f"{store}/x?sig=1", None)]
    assert at_store == [("/x?sig=1", None)]


@pytest.mark.parametrize("fault", ["nobody", "broken", "silent"])
def test_a_p2p_proxy_that_fails_is_left_until_it_works(places: Places, fault: str) -> None:
    origin, _, at_origin = places.start(Origin)
    proxy, handler, at_proxy = places.start(Proxy, fault=fault)
    address = f"http://127.0.0.1:{servers.free_port()}" if fault == "nobody" else proxy
    now = [1000.0]
    p2p = P2p(address, "proxy", clock=lambda: now[0])
    blob = Registry(p2p=p2p).open_blob(origin + PATH, size=SIZE)
    begin = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: read(blob), range(16)))
    assert time.monotonic() - begin < 25, "a share of one deadline, not all of it"
    assert len(at_proxy) <= 8 and len(at_origin) >= 8
    if fault != "nobody":
        handler.fault = ""
        before = len(at_origin)
        now[0] += 100
        # A new blob, since this one may use what it knows for a second.
        again = Registry(p2p=p2p).open_blob(origin + PATH, size=SIZE)
        read(again)
        assert at_proxy[-1][0] == origin + PATH and len(at_origin) == before + 1


def read_elsewhere(url: str, environment: dict[str, str], tls: Tls = USUAL) -> str:
    """Reads the blob in a process with these variables; what Python's own client then gets of it."""
    program = """if True:
        import sys
        from obd.registry import PULL, Registry
        from obd.tls import USUAL, Tls
        registry = Registry(tls=Tls(*eval(sys.argv[2])))
        assert len(registry.open_blob(sys.argv[1]).read_at(0, 1000)) == 1000
        with registry.request("GET", sys.argv[1], action=PULL, headers={"Range": "bytes=0-9"}) as answer:
            print(answer.content.hex())
    """
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", program, url, repr(tuple(tls))],
        env={**clean, **environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.strip()


def test_proxies_of_the_environment(places: Places, tmp_path: Path) -> None:
    origin, _, _ = places.start(Origin)
    proxy, _, at_proxy = places.start(Proxy)
    first = DATA[:10].hex()
    assert read_elsewhere(origin + PATH, {"http_proxy": proxy}) == first
    assert [url for url, _ in at_proxy] == [origin + PATH] * len(at_proxy) and len(at_proxy) >= 2
    at_proxy.clear()
    assert read_elsewhere(origin + PATH, {"http_proxy": proxy, "no_proxy": "127.0.0.0/8"}) == first
    assert read_elsewhere(origin + PATH, {"https_proxy": proxy}) == first
    assert not at_proxy
    # TLS goes through a tunnel, and ends at the registry.
    authority = Authority(tmp_path)
    with servers.serving(type("Secure", (Origin,), {"seen": []}), authority.context()) as secure:
        tls = Tls(ca_file=str(authority.file))
        assert read_elsewhere(secure + PATH, {"HTTPS_PROXY": proxy}, tls) == first
        assert {url for url, _ in at_proxy} == {urlsplit(secure).netloc}
        # And in TLS to a proxy that has it too: to both it is checked.
        inner: list[Seen] = []
        with servers.serving(type("SecureProxy", (Proxy,), {"seen": inner}), authority.context()) as outer:
            assert outer.startswith("https://")
            assert read_elsewhere(secure + PATH, {"HTTPS_PROXY": outer}, tls) == first
            assert {url for url, _ in inner} == {urlsplit(secure).netloc} and len(inner) >= 2
            inner.clear()
            with pytest.raises(subprocess.CalledProcessError) as caught:
                read_elsewhere(secure + PATH, {"HTTPS_PROXY": outer})
            assert re.search(r"the proxy [\d.:]+'s certificate is not trusted", caught.value.stderr)
            assert not inner


def test_a_registry_with_an_ipv6_address(places: Places) -> None:
    class V6(servers.QuietServer):
        address_family = socket.AF_INET6

    try:
        server = V6(("::1", 0), type("Handler", (Origin,), {"seen": []}))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        url = f"http://[::1]:{server.server_port}{PATH}"
        read(Registry().open_blob(url))
        assert read_elsewhere(url, {}) == DATA[:10].hex()
        mirror, _, seen = places.start(Origin)
        read(Registry(mirrors={f"[::1]:{server.server_port}": [mirror]}).open_blob(url, size=SIZE))
        assert seen
    finally:
        servers.stop(server)


def test_the_service_configuration_says_all_of_it(
    places: Places, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    origin, _, at_origin = places.start(Origin)
    mirror, _, at_mirror = places.start(Origin)
    proxy, handler, at_proxy = places.start(Proxy)
    host = urlsplit(origin).netloc
    config = {
        "cacheConfig": {"cacheType": "file", "cacheDir": str(tmp_path / "cache")},
        "p2pConfig": {"enable": True, "address": proxy + "/accelerator"},
        "registries": {host: {"mirrors": [mirror], "insecure": True}},
    }
    service = Service(parse_service(json.loads(json.dumps(config))))
    registry = service.make_registry(None, p2p=True)
    read(registry.open_blob(origin + PATH, size=SIZE))
    assert at_proxy and not at_mirror
    said = f"registries[{host}].insecure: its certificate is NOT verified"
    assert caplog.text.replace('"', "").count(said) == 1
    handler.fault = "broken"
    read(service.make_registry(None, p2p=True).open_blob(origin + PATH, size=SIZE))
    assert at_mirror, "behind the proxy come the mirrors"
    before = len(at_origin)
    read(service.make_registry(None).open_blob(origin + PATH, size=SIZE))
    assert len(at_origin) == before, "the mirror has it"
