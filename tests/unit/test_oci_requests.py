"""What registries are asked for, word by word, and what is made of each answer; without a network."""

import errno
import io
import json
import time
from typing import Any

import pytest
import requests.structures

from obd.errors import ObdError
from obd.oci import Descriptor, Index, Manifest, media
from obd.oci.digest import digest_of
from obd.oci.patience import Answer, ask, number, passes, pause_s, refusal
from obd.oci.registry_destination import RegistryDestination
from obd.oci.registry_source import RegistrySource
from obd.oci.repository import Repository
from obd.oci.upload import begin, mount
from obd.reference import Reference
from tests.unit.test_oci_archives import CONFIG, IMAGE
from tests.unit.test_oci_places import refused

URL = "https://registry.example/v2/team/app"
DIGEST = "sha256:" + "5" * 64
ACCEPT = ", ".join([media.OCI_MANIFEST, media.DOCKER_MANIFEST, media.OCI_INDEX, media.DOCKER_LIST])
SUBJECT = IMAGE.descriptor()
REFERRER = Manifest(IMAGE.config, (), {"note": "x"}, subject=SUBJECT, artifact_type="kind")


class Script:
    """A registry that gives what a script says; it remembers what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), list[tuple[str, str, dict[str, Any]]]()

    def request(self, method: str, url: str, **more: Any) -> Any:
        self.asked.append((method, url, {key: value for key, value in more.items() if value}))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, headers, body = (*answer, {}, b"")[:3] if isinstance(answer, tuple) else (answer, {}, b"")

        class Response:
            status_code = status

        response: Any = Response()
        response.url, response.body = url, body
        response.headers = requests.structures.CaseInsensitiveDict(headers)
        return response

    def describe_credentials(self, url: str) -> str:
        return f"as nobody at {url}"


def scripted(*answers: Any) -> Any:
    """A registry for whoever wants one."""
    return Script(*answers)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    monkeypatch.setattr("obd.session.read_body", lambda response: response.body)
    return found


def of(*answers: Any) -> tuple[Script, Repository]:
    script = scripted(*answers)
    return script, Repository(script, f"{URL}/")


# ---- asking again


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again(status: int, pauses: list[float]) -> None:
    script = scripted(*[status] * 3, 200)
    answer = ask(
        script, "GET", URL, action="pull", headers={"a": "b"}, data=b"x", mount_from="y", abroad=True
    )
    assert (answer.status, answer.url, answer.body) == (200, URL, b"")
    assert pauses == [0.25, 0.5, 1.0]
    asked = {"action": "pull", "headers": {"a": "b"}, "data": b"x", "mount_from": "y", "abroad": True}
    assert script.asked == [("GET", URL, asked)] * 4
    assert ask(scripted(*[status] * 4), "GET", URL, action="pull").status == status
    assert ask(scripted(status), "GET", URL, action="pull", attempts=1).status == status


def test_what_does_not_pass_is_not_asked_again(pauses: list[float]) -> None:
    for status in (201, 307, 400, 401, 404, 501):
        assert ask(scripted(status), "GET", URL, action="pull").status == status
    for kind, attempts in (("denied", 1), ("io", 4), ("timed-out", 4)):
        script = scripted(*[ObdError(kind, "no")] * 5)
        with pytest.raises(ObdError, match="no"):
            ask(script, "GET", URL, action="pull")
        assert len(script.asked) == attempts
    assert pauses == [0.25, 0.5, 1.0] * 2
    assert passes(OSError(errno.ETIMEDOUT, "x")) and not passes(OSError(errno.ENOENT, "x"))


def test_the_registry_says_how_long_to_wait(pauses: list[float]) -> None:
    ask(scripted((429, {"Retry-After": "3"}), 200), "GET", URL, action="pull")
    assert pauses == [3.0]
    assert [pause_s(1, text) for text in ("0", "9", "99", "-5", "soon", "\u0665", "")] == [
        *(0.25, 9.0, 15.0, 0.25, 0.25, 0.25, 0.25)
    ]
    assert [pause_s(attempt) for attempt in (1, 2, 3, 9)] == [0.25, 0.5, 1.0, 15.0]
    assert [number(text) for text in ("0", "12", "9" * 16, "9" * 17, "-1", "", "\u0665", "1.0")] == [
        *(0, 12, int("9" * 16), None, None, None, None, None)
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "denied"),
        (403, "denied"),
        (404, "not-found"),
        (400, "invalid"),
        (405, "invalid"),
        (499, "invalid"),
        (408, "io"),
        (429, "io"),
        (500, "io"),
        (302, "io"),
        (399, "io"),
    ],
)
def test_an_answer_is_an_error_of_a_kind(status: int, kind: str) -> None:
    body = json.dumps({"errors": [{"code": "NO", "message": "not\n here"}, {"code": "B"}]}).encode()
    found = refusal("PUT", Answer(status, f"{URL}?token=x", {}, body))
    assert (found.kind, found.what) == (kind, f"PUT {URL}?…: status {status}: NO: not here")
    for odd in (b"", b"[]", b"{}", b'{"errors":[]}', b'{"errors":[{}]}', b"\xff", b"[" * 100_000):
        assert refusal("GET", Answer(status, URL, {}, odd)).what == f"GET {URL}: status {status}"
    short = refusal("GET", Answer(status, URL, {}, b'{"errors":[{"code":"C"}]}')).what
    assert short == f"GET {URL}: status {status}: C:"
    long = json.dumps({"errors": [{"code": "C", "message": "m" * 999}]}).encode()
    assert len(refusal("GET", Answer(status, URL, {}, long)).what) == len(f"GET {URL}: status {status}") + 200


# ---- manifests


def test_a_manifest_is_asked_for_in_all_its_types() -> None:
    script, repository = of((200, {"Content-Type": "t"}, b"data"))
    other: Any = script
    assert repository.manifest("v1") == ("t", b"data")
    assert script.asked == [("GET", f"{URL}/manifests/v1", {"action": "pull", "headers": {"Accept": ACCEPT}})]
    assert (repository.host, repository.repository) == ("https://registry.example", "team/app")
    assert Repository(other, "http://u:p@HOST:5000/v2/a").host == "http://host:5000"


def test_a_manifest_is_what_its_digest_says() -> None:
    good, wrong = digest_of(b"data"), digest_of(b"other")
    for reference, told in ((good, ""), ("v1", good), ("v1", "nonsense"), (good, wrong)):
        assert of((200, {"Docker-Content-Digest": told}, b"data"))[1].manifest(reference) == ("", b"data")
    for reference, told in ((wrong, ""), ("v1", wrong), (wrong, good)):
        with refused("corrupt", f"{URL}/manifests/{reference}: the registry sent another manifest"):
            of((200, {"Docker-Content-Digest": told}, b"data"))[1].manifest(reference)


def test_a_manifest_that_is_refused_says_who_asked() -> None:
    for status in (401, 403):
        what = f"GET {URL}/manifests/v1: status {status} (as nobody at {URL}/manifests/v1)"
        with refused("denied", what):
            of(status)[1].manifest("v1")
    with refused("not-found", f"GET {URL}/manifests/v1: status 404"):
        of(404)[1].manifest("v1")
    script, repository = of(404, (200, {}, b"x"), 400)
    assert repository.find_manifest("v1") is None and repository.find_manifest("v1") == b"x"
    assert script.asked[0][2]["action"] == "pull,push"
    with refused("invalid", f"GET {URL}/manifests/v1: status 400"):
        repository.find_manifest("v1")


def test_a_manifest_is_stored_under_its_type() -> None:
    data = IMAGE.encode()
    for status in (200, 201, 299):
        script, repository = of(status)
        repository.put_manifest("v1", SUBJECT, data)
        head = {"Content-Type": media.OCI_MANIFEST}
        asked = {"action": "pull,push", "headers": head, "data": data}
        assert script.asked == [("PUT", f"{URL}/manifests/v1", asked)]
    for status in (199, 300, 413):
        with pytest.raises(ObdError, match=f"PUT {URL}/manifests/v1: status {status}"):
            of(status)[1].put_manifest("v1", SUBJECT, data)


# ---- referrers

TAG = f"sha256-{SUBJECT.digest.partition(':')[2]}"
ENTRY = Descriptor(
    media.OCI_MANIFEST, REFERRER.descriptor().digest, REFERRER.descriptor().size, {"note": "x"}, None, "kind"
)


def put(*answers: Any) -> Script:
    script, repository = of(*answers)
    repository.put_manifest("", REFERRER.descriptor(), REFERRER.encode())
    return script


def test_a_registry_that_lists_referrers_is_left_to_it() -> None:
    assert len(put((201, {"OCI-Subject": SUBJECT.digest})).asked) == 1


@pytest.mark.parametrize("said", [{}, {"OCI-Subject": DIGEST}])
@pytest.mark.parametrize("others", [None, (Descriptor("m", DIGEST, 1),)])
def test_where_a_registry_does_not_the_list_has_a_tag(said: dict[str, str], others: Any) -> None:
    index = Index((*(others or ()), ENTRY)).encode()
    there: Any = 404 if others is None else (200, {}, Index(others).encode())
    script = put((201, said), there, 201, (200, {}, index))
    assert [(method, url) for method, url, _ in script.asked[1:]] == [
        ("GET", f"{URL}/manifests/{TAG}"),
        ("PUT", f"{URL}/manifests/{TAG}"),
        ("GET", f"{URL}/manifests/{TAG}"),
    ]
    head = {"Content-Type": media.OCI_INDEX}
    assert script.asked[2][2] == {"action": "pull,push", "headers": head, "data": index}


def test_a_list_that_others_keep_changing_or_that_is_none() -> None:
    empty: Any = (200, {}, Index(()).encode())
    with refused("busy", f"{URL}: others keep changing {TAG}"):
        put(201, *[empty, 201] * 5)
    with refused("corrupt", f"{URL}: {TAG} is no list of referrers"):
        put(201, (200, {}, IMAGE.encode()))
    with refused("denied", f"PUT {URL}/manifests/{TAG}: status 403"):
        put(201, empty, 403)
    image = Manifest(IMAGE.config, (), subject=SUBJECT)
    script, repository = of(201, 404, 201, (200, {}, Index((image.descriptor(),)).encode()))
    repository.put_manifest("", image.descriptor(), image.encode())
    listed = json.loads(script.asked[2][2]["data"])["manifests"]
    assert [entry["artifactType"] for entry in listed] == [media.OCI_CONFIG], "the type of its configuration"


def test_referrers_are_listed_by_the_registry_or_under_a_tag() -> None:
    found = (200, {"Content-Type": media.OCI_INDEX}, Index((ENTRY, Descriptor("m", DIGEST, 1))).encode())
    script, repository = of(found)
    assert repository.referrers(SUBJECT.digest) == (ENTRY, Descriptor("m", DIGEST, 1))
    assert script.asked == [("GET", f"{URL}/referrers/{SUBJECT.digest}", {"action": "pull"})]
    assert of(found)[1].referrers(SUBJECT.digest, "kind") == (ENTRY,)
    assert of(found)[1].referrers(SUBJECT.digest, "other") == ()
    odds: list[Any] = [404, 400, (200, {}, b"<html>"), (200, {}, IMAGE.encode())]
    for odd in odds:
        script, repository = of(odd, found)
        assert repository.referrers(SUBJECT.digest, "kind") == (ENTRY,)
        asked = {"action": "pull", "headers": {"Accept": ACCEPT}}
        assert script.asked[1] == ("GET", f"{URL}/manifests/{TAG}", asked)
        assert of(odd, 404)[1].referrers(SUBJECT.digest) == ()
    with refused("denied", f"GET {URL}/manifests/{TAG}: status 401"):
        of(404, 401)[1].referrers(SUBJECT.digest)
    assert of(404, found)[0].asked == []
    script, repository = of(404, 404)
    repository.referrers("sha512:" + "a" * 128)
    assert script.asked[1][1] == f"{URL}/manifests/sha512-{'a' * 64}"


# ---- blobs


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        ((200, {"Content-Length": "5"}), 5),
        ((200, {}), -1),
        ((200, {"Content-Length": "x"}), -1),
        (404, None),
        *[(status, -1) for status in (301, 302, 303, 307, 308)],
    ],
)
def test_whether_a_blob_is_there(answer: Any, size: int | None) -> None:
    script, repository = of(answer)
    assert repository.blob_size(DIGEST) == size
    assert script.asked == [("HEAD", f"{URL}/blobs/{DIGEST}", {"action": "pull,push"})]
    target = RegistryDestination(scripted(answer), Reference(URL, "v1", ""))
    assert target.has_blob(Descriptor("t", DIGEST, 5)) == (size in (5, -1))


def test_a_blob_that_may_not_be_asked_for() -> None:
    for status in (304, 405):
        with pytest.raises(ObdError, match=f"HEAD {URL}/blobs/{DIGEST}: status {status}"):
            of(status)[1].blob_size(DIGEST)


def test_an_upload_begins_where_the_registry_says() -> None:
    script, repository = of((202, {"Location": "/upload/1?a=b"}))
    assert begin(repository) == "https://registry.example/upload/1?a=b"
    assert script.asked == [("POST", f"{URL}/blobs/uploads/", {"action": "pull,push"})]
    with refused("invalid", f"{URL}/blobs/uploads/: upload without Location"):
        begin(of(202)[1])
    with refused("denied", f"POST {URL}/blobs/uploads/: status 403"):
        begin(of(403)[1])


def test_a_mount_is_done_or_an_upload_begun() -> None:
    blob = Descriptor("t", DIGEST, 5)
    script, repository = of(201)
    assert mount(repository, blob, "other/app") is None
    asked = {"action": "pull,push", "mount_from": "other/app"}
    assert script.asked == [("POST", f"{URL}/blobs/uploads/?mount={DIGEST}&from=other/app", asked)]
    assert mount(of((202, {"Location": "/u"}))[1], blob, "o") == "https://registry.example/u"
    with pytest.raises(ObdError, match="status 400"):
        mount(of(400)[1], blob, "o")


def test_a_destination_mounts_within_one_registry_only() -> None:
    script = scripted(201, 400, (202, {"Location": "/u"}))
    target: Any = RegistryDestination(script, Reference(URL, "v1", ""))
    blob = Descriptor("t", DIGEST, 5)
    for url, same in (("https://registry.example/v2/other", True), ("https://else.example/v2/other", False)):
        source: Any = RegistrySource(script, Reference(url, "v1", ""))
        assert target.mount_blob(blob, source) == same
    assert not target.mount_blob(blob, object())
    assert not target.mount_from(blob, "team/app") and len(script.asked) == 1, "it is there already"
    assert not target.mount_from(blob, "no/right") and not target.mount_from(blob, "elsewhere")
    assert (target.name, target.tag) == (URL, "v1")
    assert RegistryDestination(script, Reference(URL, "", "")).tag == "latest"
    assert RegistryDestination(script, Reference(URL, "", DIGEST)).tag == ""


def test_a_destination_names_what_it_stores() -> None:
    script = scripted(201, 201, 404)
    target = RegistryDestination(script, Reference(URL, "v1", ""))
    target.put_manifest(SUBJECT, IMAGE.encode(), "v1")
    target.put_manifest(SUBJECT, IMAGE.encode(), None)
    assert [url for _, url, _ in script.asked] == [f"{URL}/manifests/v1", f"{URL}/manifests/{SUBJECT.digest}"]
    assert target.manifest("v2") is None
    target.close()
    target.discard()


# ---- reading


class Remote:
    """A blob of the core."""

    def __init__(self, data: bytes) -> None:
        self.data, self.reads, self.patience = data, list[tuple[int, int]](), list[float]()

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.data[offset : offset + length]

    def endure(self, seconds: float) -> None:
        self.patience.append(seconds)


def source_of(*answers: Any, tag: str = "v1", digest: str = "") -> tuple[Any, RegistrySource]:
    script: Any = scripted(*answers)
    return script, RegistrySource(script, Reference(URL, tag, digest))


def test_the_root_is_what_the_name_says() -> None:
    data, head = IMAGE.encode(), {"Content-Type": media.OCI_MANIFEST}
    for tag, digest, asked in (("v1", "", "v1"), ("", "", "latest"), ("v1", SUBJECT.digest, SUBJECT.digest)):
        script, source = source_of((200, head, data), tag=tag, digest=digest)
        assert source.root() == (SUBJECT, data) and source.name == URL
        assert script.asked[0][1] == f"{URL}/manifests/{asked}"
    script, source = source_of((200, head, data), (200, {}, data))
    assert source.manifest(SUBJECT) == data
    short = Descriptor(SUBJECT.media_type, SUBJECT.digest, SUBJECT.size - 1)
    with refused("corrupt", f"{SUBJECT.size} bytes, {SUBJECT.digest} has {SUBJECT.size - 1}", URL):
        source.manifest(short)


def test_a_blob_is_read_range_by_range_one_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obd.oci.registry_source.RANGE_BYTES", 1000)
    data = bytes(range(250)) * 10
    remote, (script, source) = Remote(data), source_of()
    opened: list[tuple[str, int]] = []

    def open_blob(url: str, *, size: int) -> Remote:
        opened.append((url, size))
        return remote

    script.open_blob = open_blob
    blob = Descriptor.of(data, "t")
    with source.blob(blob) as stream:
        assert stream.read(10) == data[:10]
        assert stream.read() == data[10:]
        source.close()
    assert opened == [(f"{URL}/blobs/{blob.digest}", 2500)]
    assert remote.reads == [(0, 1000), (1000, 1000), (2000, 500)]
    assert remote.patience == [30.0, 0, 0], "whoever closes waits no longer"
    with source.blob(Descriptor.of(b"", "t")) as stream:
        assert stream.read() == b"" and len(opened) == 1
    wrong = Descriptor("t", DIGEST, 2500)
    with (
        source.blob(wrong) as stream,
        pytest.raises(ObdError, match=f"^corrupt: {URL}/blobs/{DIGEST}: the bytes"),
    ):
        stream.read()
    assert isinstance(stream, io.BufferedReader) and CONFIG
