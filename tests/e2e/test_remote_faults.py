"""A registry that misbehaves in every way: the right bytes, or an error that says what happened."""

import contextlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import obdcore
from obd.credentials import Credential, CredentialSource
from obd.registry import Registry
from tests.e2e.servers import QuietHandler, serving

SIZE = 2_000_003
DATA = random.Random(5).randbytes(SIZE)
PATH = "/v2/team/app/blobs/sha256:" + "0" * 64

# Answers a request for the bytes `first` to `last`.
Fault = Callable[["Handler", int, int], None]


class Plan:
    """What goes wrong: first the faults on the list, one for each request, then `lasting` or nothing."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.lasting: Fault | None = None
        self.seen: list[tuple[str, str | None]] = []
        self._lock = threading.Lock()

    def next(self, path: str, authorization: str | None) -> Fault:
        with self._lock:
            self.seen.append((path, authorization))
            return self.faults.pop(0) if self.faults else self.lasting or Handler.part


class Handler(QuietHandler):
    """Serves DATA by ranges, unless the plan has something else in mind."""

    plan: Plan

    def do_GET(self) -> None:
        first, last = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
        fault = self.plan.next(self.path, self.headers.get("Authorization"))
        fault(self, first, min(last, SIZE - 1))

    def part(
        self,
        first: int,
        last: int,
        *,
        range_: str | None = None,
        body: bytes | None = None,
        status: int = 206,
    ) -> None:
        body = DATA[first : last + 1] if body is None else body
        value = f"bytes {first}-{last}/{SIZE}" if range_ is None else range_
        self.answer(status, body, {"Content-Range": value} if value else {})

    def cut(self, first: int, last: int, length: int) -> None:
        """The right head, then only so many bytes of body before the connection ends."""
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{SIZE}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(DATA[first : first + length])
        self.close_connection = True

    def hang_up(self) -> None:
        self.close_connection = True

    def garbage(self) -> None:
        self.wfile.write(b"\x00\xff garbage\r\n\r\n")
        self.close_connection = True

    def chunked(self, body: bytes, first: int, last: int) -> None:
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{SIZE}")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


def answering(status: int, **headers: str) -> Fault:
    def fault(handler: Handler, first: int, last: int) -> None:
        handler.answer(status, b'{"errors": []}', {name.replace("_", "-"): v for name, v in headers.items()})

    return fault


def said(range_: str) -> Fault:
    """The right bytes under a wrong Content-Range."""
    return lambda h, first, last: h.part(first, last, range_=range_)


FAULTS: dict[str, Fault] = {
    "200 with everything": lambda h, a, z: h.answer(200, DATA),
    "200 with the range's bytes": lambda h, a, z: h.part(a, z, range_="", status=200),
    "206 without a range": said(""),
    "206 of another place": lambda h, a, z: h.part(0, z - a) if a else h.part(1, z + 1),
    "206 of another place under the right length": said(f"bytes 5-9/{SIZE}"),
    "206 of a longer blob": lambda h, a, z: h.part(a, z, range_=f"bytes {a}-{z}/{SIZE + 1}"),
    "206 of a shorter blob": lambda h, a, z: h.part(a, z, range_=f"bytes {a}-{z}/{z + 1}"),
    "206 of unknown length": lambda h, a, z: h.part(a, z, range_=f"bytes {a}-{z}/*"),
    "206 that ends early": lambda h, a, z: h.part(a, z - 1),
    "206 with less body": lambda h, a, z: h.part(a, z, body=DATA[a:z]),
    "206 with more body": lambda h, a, z: h.part(a, z, body=DATA[a : z + 1] + b"x"),
    "206 with more body, chunked": lambda h, a, z: h.chunked(DATA[a : z + 1] + b"x", a, z),
    "206 with less body, chunked": lambda h, a, z: h.chunked(DATA[a:z], a, z),
    "body cut at once": lambda h, a, z: h.cut(a, z, 0),
    "body cut in the middle": lambda h, a, z: h.cut(a, z, (z - a) // 2),
    "body cut at the last byte": lambda h, a, z: h.cut(a, z, z - a),
    "connection closed": lambda h, a, z: h.hang_up(),
    "garbage": lambda h, a, z: h.garbage(),
    "204": answering(204),
    "500": answering(500),
    "502": answering(502),
    "503 with Retry-After": answering(503, Retry_After="0"),
    "429": answering(429),
    "403 without a challenge": answering(403),
    "404": answering(404),
    "416": answering(416),
    "302 to nowhere": answering(302),
    "compressed": answering(206, Content_Encoding="gzip", Content_Range=f"bytes 0-13/{SIZE}"),
}
# After these no other answer is asked for.
FINAL = {"403 without a challenge", "404", "416", "302 to nowhere"}


class Broken(Plan):
    """A running server and its plan."""

    def __init__(self) -> None:
        super().__init__()
        self.url = ""
        self.blob_url = ""


@contextlib.contextmanager
def broken() -> Iterator[Broken]:
    plan = Broken()
    with serving(type("Planned", (Handler,), {"plan": plan})) as plan.url:
        plan.blob_url = plan.url + PATH
        yield plan


@pytest.fixture
def server() -> Iterator[Broken]:
    with broken() as plan:
        yield plan


@pytest.fixture
def cache(tmp_path: Path) -> obdcore.ChunkCache:
    return make_cache(tmp_path)


def make_cache(directory: Path) -> obdcore.ChunkCache:
    return obdcore.ChunkCache(str(directory), 1 << 30, 65536, min_free_bytes=0)


def for_each(names: Iterable[str], check: Callable[[str], None]) -> None:
    """Checks all names side by side, since most of the time is spent waiting for the next attempt."""
    with ThreadPoolExecutor(8) as pool:
        pending = {name: pool.submit(check, name) for name in names}
    failed = {name: future.exception() for name, future in pending.items() if future.exception()}
    assert not failed, failed


def read_right(blob: obdcore.RemoteBlob) -> None:
    order = random.Random(2)
    for _ in range(20):
        offset = order.randrange(SIZE)
        length = min(order.randrange(1, 300_000), SIZE - offset)
        assert blob.read_at(offset, length) == DATA[offset : offset + length]


def test_faults_that_pass(tmp_path: Path) -> None:
    def check(name: str) -> None:
        with broken() as server:
            server.faults += [FAULTS[name], FAULTS[name]]
            blob = Registry().open_blob(server.blob_url, size=SIZE, cache=make_cache(tmp_path / name))
            assert blob.read_at(70_000, 100_000) == DATA[70_000:170_000]
            # A 200 from near the start of the blob is as good as a 206.
            assert server.faults == [] or name == "200 with everything"
            server.faults += [FAULTS[name]]
            read_right(blob)

    for_each((name for name in FAULTS if name not in FINAL), check)


def test_faults_that_last(tmp_path: Path) -> None:
    """Bytes that are right or an error with status, blob and URL, soon; and nothing wrong is kept."""

    def check(name: str) -> None:
        offset = 1_500_000
        with broken() as server:
            server.lasting = FAULTS[name]
            blob = Registry().open_blob(server.blob_url, size=SIZE, cache=make_cache(tmp_path / name))
            # Only these two still bring the bytes, each time a part of them.
            brings = name in ("body cut in the middle", "body cut at the last byte")
            try:
                assert blob.read_at(offset, 1000) == DATA[offset : offset + 1000]
                assert brings
            except obdcore.Error as error:
                text = str(error)
                assert PATH in text and "GET http://127.0.0.1" in text, text
                assert error.offset is not None and abs(error.offset - offset) <= 65536
                status = name.split(" ")[0]
                assert not status.isdecimal() or status in text, text
            assert len(server.seen) <= 10
            server.lasting = None
            read_right(blob)

    for_each(FAULTS, check)


def test_only_what_is_final_is_not_tried_again(server: Broken, cache: obdcore.ChunkCache) -> None:
    for name in sorted(FINAL):
        server.seen.clear()
        server.faults.append(FAULTS[name])
        with pytest.raises(obdcore.Error):
            Registry().open_blob(server.blob_url, size=SIZE).read_at(0, 10)
        assert len(server.seen) == 1, name


class Fixed(CredentialSource):
    """One user for all hosts."""

    def lookup(self, blob_url: str) -> Credential:
        return Credential("ann", "hidden")

    def describe(self) -> str:
        return "the test"


def test_a_redirect_to_another_host_gets_no_credentials(server: Broken, cache: obdcore.ChunkCache) -> None:
    def redirect(handler: Handler, first: int, last: int) -> None:
        if handler.headers.get("Authorization") == Credential("ann", "hidden").basic():
            handler.answer(307, b"", {"Location": target})
        else:
            handler.answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})

    with broken() as storage:
        target = f"{storage.url}/bucket/x?signature=hidden"
        server.lasting = redirect
        blob = Registry(Fixed()).open_blob(server.blob_url, size=SIZE, cache=cache)
        read_right(blob)
        assert {authorization for _, authorization in storage.seen} == {None}
        assert len(server.seen) == 2, "challenge and redirect are remembered"
        # A link that has expired is replaced by asking the registry again.
        storage.faults.append(answering(403))
        assert Registry(Fixed()).open_blob(server.blob_url, size=SIZE).read_at(5, 5) == DATA[5:10]
        # If it never works, the error says where, without the signature.
        storage.lasting = answering(403)
        with pytest.raises(obdcore.Error) as caught:
            Registry(Fixed()).open_blob(server.blob_url, size=SIZE).read_at(5, 5)
        assert "hidden" not in str(caught.value)


def test_redirects_in_circles_end(server: Broken) -> None:
    server.lasting = lambda h, a, z: h.answer(302, b"", {"Location": h.path + "x"})
    with pytest.raises(obdcore.Error, match="circles"):
        Registry().open_blob(server.blob_url, size=SIZE).read_at(0, 10)
    assert len(server.seen) < 20


def test_nobody_there() -> None:
    with serving(QuietHandler) as url:
        pass
    blob = Registry().open_blob(url + PATH, size=SIZE)
    with pytest.raises(obdcore.Error, match=r"given up after 5 attempts.*GET http://127") as caught:
        blob.read_at(0, 10)
    assert caught.value.kind == "io"


def test_a_connection_that_went_stale_costs_no_attempt(server: Broken) -> None:
    blob = Registry().open_blob(server.blob_url, size=SIZE)
    for i in range(30):
        # Each second request meets a connection that is closed instead of answered.
        server.faults[:] = [FAULTS["connection closed"]] if i % 2 else []
        blob.read_at(i, 1)
    assert blob.stats()["failures"] == 0
