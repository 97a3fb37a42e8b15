"""Uploads, request by request, against a registry that does what it is told."""

import io
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from obd.credentials import Credential
from obd.errors import ObdError
from obd.oci import Descriptor, limits, media, patience
from obd.oci.registry_destination import RegistryDestination
from obd.oci.registry_source import RegistrySource
from obd.reference import Reference
from obd.registry import Registry
from tests.e2e.servers import QuietHandler, serve, stop

PART = 1 << 20
DATA = bytes(range(256)) * (3 * 4096 + 7)
BLOB = Descriptor.of(DATA, media.OCI_LAYER)


class Fake:
    """A registry with one blob at most. `odd` are statuses by method and number, 0 for no answer.

    With `keeps` such a request has done its work all the same.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.counts: dict[str, int] = {}
        self.clients: set[object] = set()
        self.received = bytearray()
        self.stored: bytes | None = None
        self.odd: dict[tuple[str, int], int] = {}
        self.keeps = False
        self.location = "/upload/1?state=x"
        self._server = serve(self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/v2/team/app"

    def stop(self) -> None:
        stop(self._server)

    def _handler(self) -> type[QuietHandler]:
        fake = self

        class Handler(QuietHandler):
            def _take(
                self, line: str, status: int, headers: dict[str, str], work: Callable[[bytes], object]
            ) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                if len(body) < length:
                    self.close_connection = True
                    return
                fake.requests.append(line)
                fake.clients.add(self.client_address)
                number = fake.counts[self.command] = fake.counts.get(self.command, 0) + 1
                odd = fake.odd.get((self.command, number))
                if odd is None or fake.keeps:
                    work(body)
                if odd == 0:
                    self.close_connection = True
                else:
                    self.answer(odd or status, headers={} if odd else headers)

            def do_HEAD(self) -> None:
                self._take("HEAD", 404 if fake.stored is None else 200, {}, lambda _: None)

            def do_POST(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                line = f"POST from {query['from'][0]}" if "mount" in query else "POST"
                self._take(line, 202, {"Location": fake.location}, lambda _: fake.received.clear())

            def do_PATCH(self) -> None:
                line = f"PATCH {self.headers['Content-Range']}"
                self._take(line, 202, {"Location": fake.location}, fake.received.extend)

            def do_GET(self) -> None:
                last = max(len(fake.received) - 1, 0)
                headers = {"Location": "/upload/1?state=y", "Range": f"0-{last}"}
                self._take("GET", 204, headers, lambda _: None)

            def do_PUT(self) -> None:
                def store(body: bytes) -> None:
                    fake.received += body
                    fake.stored = bytes(fake.received)

                assert parse_qs(urlsplit(self.path).query)["digest"] == [BLOB.digest]
                self._take("PUT", 201, {}, store)

            def do_DELETE(self) -> None:
                self._take("DELETE", 204, {}, lambda _: None)

        return Handler


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setattr(patience, "PAUSE_S", 0.0)
    server = Fake()
    yield server
    server.stop()


def destination(fake: Fake, part_bytes: int = PART) -> RegistryDestination:
    return RegistryDestination(Registry(), Reference(fake.url, "v1", ""), part_bytes=part_bytes)


CONTENTS: dict[str, Callable[[], bytes | io.BytesIO]] = {
    "bytes": lambda: DATA,
    "stream": lambda: io.BytesIO(DATA),
}
ALL_PARTS = [f"PATCH {at}-{min(at + PART, len(DATA)) - 1}" for at in range(0, len(DATA), PART)]


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_small_blob_takes_one_request(fake: Fake, kind: str) -> None:
    seen: list[tuple[int, int]] = []
    destination(fake, len(DATA)).put_blob(
        BLOB, CONTENTS[kind](), lambda done, total: seen.append((done, total))
    )
    assert fake.stored == DATA and fake.requests == ["HEAD", "POST", "PUT"]
    assert seen[-1] == (len(DATA), len(DATA)) and seen == sorted(seen)


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_large_blob_goes_in_parts(fake: Fake, kind: str) -> None:
    destination(fake).put_blob(BLOB, CONTENTS[kind]())
    assert fake.stored == DATA and fake.requests == ["HEAD", "POST", *ALL_PARTS, "PUT"]
    assert len(fake.clients) == 1, "one connection serves for all"


@pytest.mark.parametrize("status", [0, 500, 503, 429])
@pytest.mark.parametrize("kind", CONTENTS)
def test_a_part_that_fails_is_sent_again(fake: Fake, kind: str, status: int) -> None:
    fake.odd["PATCH", 2] = status
    destination(fake).put_blob(BLOB, CONTENTS[kind]())
    again = ["HEAD", "GET"]
    assert fake.stored == DATA
    assert fake.requests == ["HEAD", "POST", *ALL_PARTS[:2], *again, *ALL_PARTS[1:], "PUT"]


def test_a_part_of_which_the_registry_has_more_begins_the_upload_anew(fake: Fake) -> None:
    fake.odd["PATCH", 2], fake.keeps = 0, True
    destination(fake).put_blob(BLOB, DATA)
    assert fake.stored == DATA
    assert fake.requests == ["HEAD", "POST", *ALL_PARTS[:2], "HEAD", "GET", "POST", *ALL_PARTS, "PUT"]


@pytest.mark.parametrize("status", [404, 416])
def test_an_upload_that_the_registry_lost_begins_anew(fake: Fake, status: int) -> None:
    fake.odd["PATCH", 3], fake.odd["GET", 1] = status, 404
    destination(fake).put_blob(BLOB, DATA)
    assert fake.stored == DATA
    assert fake.requests == ["HEAD", "POST", *ALL_PARTS[:3], "HEAD", "GET", "POST", *ALL_PARTS, "PUT"]


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("part_bytes", [PART, len(DATA)])
def test_a_first_part_that_fails_begins_the_upload_anew(fake: Fake, kind: str, part_bytes: int) -> None:
    method = "PATCH" if part_bytes == PART else "PUT"
    fake.odd[method, 1], fake.keeps = 500, method == "PATCH"
    destination(fake, part_bytes).put_blob(BLOB, CONTENTS[kind]())
    assert fake.stored == DATA
    rest = [*ALL_PARTS, "PUT"] if method == "PATCH" else ["PUT"]
    assert fake.requests == ["HEAD", "POST", rest[0], "HEAD", "POST", *rest]


def test_a_stream_cannot_begin_anew_and_says_what_failed(fake: Fake) -> None:
    fake.odd["PATCH", 2], fake.keeps = 500, True
    with pytest.raises(ObdError, match=r"PATCH .*: status 500") as caught:
        destination(fake).put_blob(BLOB, io.BytesIO(DATA))
    assert caught.value.kind == "io" and fake.stored is None


def test_a_blob_whose_last_answer_was_lost_is_there(fake: Fake) -> None:
    fake.odd["PUT", 1], fake.keeps = 0, True
    destination(fake).put_blob(BLOB, io.BytesIO(DATA))
    assert fake.stored == DATA and fake.requests == ["HEAD", "POST", *ALL_PARTS, "PUT", "HEAD"]


def test_what_fails_always_is_given_up(fake: Fake) -> None:
    fake.odd = {("PATCH", number): 500 for number in range(100)}
    with pytest.raises(ObdError, match="status 500"):
        destination(fake).put_blob(BLOB, DATA)
    assert fake.counts["PATCH"] == patience.ATTEMPTS
    fake.odd = {("POST", number): 403 for number in range(100)}
    with pytest.raises(ObdError) as caught:
        destination(fake).put_blob(BLOB, DATA)
    assert caught.value.kind == "denied" and fake.requests[-2:] == ["HEAD", "POST"], "that will not change"


@pytest.mark.parametrize("content", [DATA[:-1], DATA + b"x"], ids=["short", "long"])
@pytest.mark.parametrize("part_bytes", [PART, len(DATA)])
def test_content_of_another_length_is_not_stored(fake: Fake, content: bytes, part_bytes: int) -> None:
    with pytest.raises(ObdError, match="the content ") as caught:
        destination(fake, part_bytes).put_blob(BLOB, io.BytesIO(content))
    assert caught.value.kind == "corrupt" and fake.stored is None


@pytest.mark.parametrize("kind", ["corrupt", "io"])
def test_what_reading_the_content_raises_is_told(fake: Fake, kind: str) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > PART:
                raise ObdError(kind, "the source is broken")
            return super().read(size)

    with pytest.raises(ObdError, match="the source is broken"):
        destination(fake).put_blob(BLOB, Broken(DATA))
    assert fake.stored is None and fake.requests[-1] == "DELETE", "the upload is given up"


def test_an_upload_that_began_in_place_of_a_mount_is_used(fake: Fake) -> None:
    target = destination(fake)
    other = Reference(fake.url.replace("team/app", "team/base"), "v1", "")
    assert not target.mount_blob(BLOB, RegistrySource(Registry(), other))
    target.put_blob(BLOB, DATA)
    assert fake.stored == DATA and fake.requests == ["POST from team/base", *ALL_PARTS, "PUT"]
    assert not target.mount_blob(BLOB, RegistrySource(Registry(), Reference(fake.url, "v2", "")))
    elsewhere = Reference(other.url.replace("127.0.0.1", "localhost"), "v1", "")
    assert not target.mount_blob(BLOB, RegistrySource(Registry(), elsewhere))
    assert "POST" not in fake.requests[-1]


class Everywhere:
    """The same credentials for whatever asks for some."""

    def lookup(self, url: str) -> Credential:
        return Credential("user", "password")

    def forget(self, url: str) -> None:
        pass

    def describe(self) -> str:
        return "a test"


def test_credentials_for_another_registry_are_not_used_there(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a registry could have anything done to another one that the user may write to."""
    seen: list[str | None] = []

    class Other(QuietHandler):
        def _refuse(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append(self.headers.get("Authorization"))
            self.answer(401, headers={"WWW-Authenticate": "Basic"})

        do_PUT = do_PATCH = do_DELETE = do_GET = _refuse

    other = serve(Other)
    try:
        place = f"http://127.0.0.1:{other.server_port}/v2/team/app"
        fake.location = f"{place}/manifests/latest"
        target = RegistryDestination(Registry(Everywhere()), Reference(fake.url, "v1", ""), part_bytes=PART)
        with pytest.raises(ObdError) as caught:
            target.put_blob(BLOB, DATA)
        assert caught.value.kind == "denied" and seen and set(seen) == {None}
    finally:
        stop(other)


def test_numbers_in_headers_are_of_a_kind_that_counts() -> None:
    """Python refuses to read very long ones, with an error that nobody expects."""
    assert [patience.number(text) for text in ("0", "12", str(limits.MAX_BLOB_BYTES))] == [0, 12, 1 << 50]
    for text in ("", "-1", "1e3", "\xb2", "\u0663", "9" * 5000):
        assert patience.number(text) is None
