"""Credential servers over http, https and Unix sockets: real ones, on the loopback and in a directory."""

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from obd.config import parse_service
from obd.credentials import Credential, CredentialSource, source_of
from obd.credentials import server as server_room
from tests.e2e import servers
from tests.e2e.givers import GOOD, Giver, at_socket, certificates, mutual_tls

BLOB = "https://h:5000/v2/team/app/blobs/sha256:" + "0" * 64
ENCODED = "https%3A%2F%2Fh%3A5000%2Fv2%2Fteam%2Fapp%2Fblobs%2Fsha256%3A" + "0" * 64


@pytest.fixture
def giver() -> Giver:
    return Giver()


@pytest.fixture
def base(giver: Giver) -> Iterator[str]:
    with servers.serving(giver.handler()) as url:
        yield url


def source(mode: str, path: object, **members: object) -> CredentialSource:
    """The source that a configuration file with these members asks for."""
    settings = {"mode": mode, "path": str(path), "timeout": 5, **members}
    found = source_of(parse_service({"credentialConfig": settings}).credentials)
    assert found is not None
    return found


def test_the_question_and_the_answer(giver: Giver, base: str) -> None:
    ours = source("http", f"{base}/auth")
    assert ours.lookup(BLOB) == Credential("ann", "hunter2")
    assert giver.asked == [f"/auth?remote_url={ENCODED}"]
    assert "Authorization" not in giver.heads[0]
    assert ours.lookup(BLOB.replace("0000", "1111")) == Credential("ann", "hunter2")
    assert len(giver.asked) == 1, "another layer of the repository is no other question"
    assert ours.lookup(BLOB.replace("team", "other")) is not None
    assert len(giver.asked) == 2
    assert ours.describe() == f"{base}/auth"


def test_the_url_may_be_sent_raw_and_the_servers_may_have_a_query_and_a_user(giver: Giver, base: str) -> None:
    address = base.removeprefix("http://")
    assert source("http", f"{address}/auth", rawUrl=True).lookup(BLOB)
    assert giver.asked == [f"/auth?remote_url={BLOB}"]
    ours = source("http", f"http://me:pass%21word@{address}/auth?key=hunter3")
    assert ours.lookup(BLOB)
    assert giver.asked[1] == f"/auth?key=hunter3&remote_url={ENCODED}"
    assert giver.heads[1]["Authorization"] == Credential("me", "pass!word").basic()
    assert ours.describe() == f"http://…@{address}/auth?…"


def test_nobody_but_the_registry_is_answered_for(giver: Giver, base: str) -> None:
    ours = source("http", base)
    assert ours.lookup(BLOB.replace("h:5000", "evil")) is None
    assert ours.describe() == base, "having nothing is no failure"


BAD: list[tuple[str, int, object, str]] = [
    ("status", 503, GOOD, "answered with status 503"),
    ("redirect", 302, GOOD, "answered with status 302"),
    ("not JSON", 200, b"hunter2{", "its answer is of no use: not JSON"),
    ("an array", 200, [GOOD], "its answer is of no use: the root must be an object"),
    ("no success", 200, {**GOOD, "success": False}, "its answer does not say success"),
    ("success of a wrong type", 200, {**GOOD, "success": "true"}, "its answer does not say success"),
    ("no data", 200, {"success": True}, "its answer has no object data.auths"),
    ("auths of a wrong type", 200, {"success": True, "data": {"auths": [1]}}, "no object data.auths"),
    ("too long", 200, b" " * (server_room.MAX_BODY_BYTES + 1), "answered with more than 1048576 bytes"),
]


@pytest.mark.parametrize(("status", "body", "said"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_answers_that_are_none(
    giver: Giver, base: str, caplog: pytest.LogCaptureFixture, status: int, body: object, said: str
) -> None:
    giver.status, giver.headers = status, {"Location": f"{base}/elsewhere"}
    giver.body = body if isinstance(body, bytes) else json.dumps(body).encode()
    ours = source("http", f"{base}/auth?token=hunter2")
    with caplog.at_level(logging.DEBUG):
        assert [ours.lookup(BLOB) for _ in range(3)] == [None, None, None]
    assert len(giver.asked) == 1, "a failure is remembered for a moment, and a redirect is not followed"
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1 and said in warnings[0].getMessage()
    assert said in ours.describe()
    assert "hunter2" not in caplog.text + ours.describe() + repr(ours)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    ours = source("http", f"http://127.0.0.1:{servers.free_port()}/auth")
    assert ours.lookup(BLOB) is None
    assert "cannot be reached" in ours.describe()
    ours = source("uds", tmp_path / "absent.sock")
    assert ours.lookup(BLOB) is None
    assert ours.describe() == f"unix socket {tmp_path}/absent.sock (failed: No such file or directory)"


@pytest.mark.parametrize("mode", ["http", "uds"])
def test_the_time_limit_is_for_the_whole_request(giver: Giver, base: str, tmp_path: Path, mode: str) -> None:
    """A server that sends a byte now and then never lets a socket's own limit pass, and answers at last."""
    done = threading.Event()
    body = b" " * 100 + json.dumps(GOOD).encode()

    class Trickle(servers.QuietHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                for number in range(100):
                    self.wfile.write(body[number : number + 1])
                    self.wfile.flush()
                    if done.wait(0.1):
                        return
                self.wfile.write(body[100:])
                self.wfile.flush()

    giver.handler = lambda: Trickle  # type: ignore[method-assign]
    with contextlib.ExitStack() as stack:
        stack.callback(done.set)
        if mode == "http":
            path: object = stack.enter_context(servers.serving(Trickle))
        else:
            path = tmp_path / "s"
            stack.enter_context(at_socket(giver, tmp_path / "s"))
        ours = source(mode, path, timeout=1)
        assert ours.lookup(BLOB) is None
        assert "no answer within 1 s" in ours.describe()


def test_what_is_remembered_is_dropped_when_it_is_refused(
    giver: Giver, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obd.credentials.memory.FRESH_S", 0.0)
    ours = source("http", base)
    assert ours.lookup(BLOB) == Credential("ann", "hunter2")
    giver.body = giver.body.replace(b"hunter2", b"changed")
    assert ours.lookup(BLOB) == Credential("ann", "hunter2")
    ours.forget(BLOB)
    assert ours.lookup(BLOB) == Credential("ann", "changed")


def test_a_proxy_of_the_environment_is_used(giver: Giver, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", base)
    assert source("http", "http://credentials.invalid/auth").lookup(BLOB) is not None
    assert giver.asked == [f"http://credentials.invalid/auth?remote_url={ENCODED}"]


def test_a_unix_socket(giver: Giver, tmp_path: Path) -> None:
    path = tmp_path / "cred.sock"
    with at_socket(giver, path):
        ours = source("uds", path)
        assert ours.lookup(BLOB) == Credential("ann", "hunter2")
        assert giver.asked == [f"/auth?remote_url={ENCODED}"]
        assert giver.heads[0]["Host"] == "localhost"
        assert source("uds", path, rawUrl=True).lookup(BLOB)
        assert giver.asked[1] == f"/auth?remote_url={BLOB}"
        giver.status = 500
        refused = source("uds", path)
        assert refused.lookup(BLOB) is None
        assert refused.describe() == f"unix socket {path} (failed: answered with status 500)"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tls")
    certificates(home)
    return home


@pytest.fixture
def secure(giver: Giver, tls: Path) -> Iterator[str]:
    with mutual_tls(giver, tls) as url:
        yield url


def test_mutual_tls(giver: Giver, secure: str, tls: Path) -> None:
    trust = {"server_ca_path": str(tls / "ca.pem")}
    pair = {"client_cert_path": str(tls / "client.pem"), "client_key_path": str(tls / "client.key")}
    assert source("https", secure, **trust, **pair).lookup(BLOB) == Credential("ann", "hunter2")
    assert source("https", secure, **trust, client_cert_path=str(tls / "both.pem")).lookup(BLOB)
    without = source("https", secure, **trust)
    assert without.lookup(BLOB) is None
    assert "cannot be reached" in without.describe()
    assert len(giver.asked) == 2


def test_only_the_pinned_authority_is_trusted(
    giver: Giver, secure: str, tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = {"client_cert_path": str(tls / "both.pem")}
    # The system's trust, as OpenSSL has it: it does not count beside a pinned authority.
    monkeypatch.setenv("SSL_CERT_FILE", str(tls / "ca.pem"))
    assert source("https", secure, **pair).lookup(BLOB) is not None
    pinned = source("https", secure, **pair, server_ca_path=str(tls / "other.pem"))
    assert pinned.lookup(BLOB) is None
    assert "its certificate is not trusted" in pinned.describe()
    name = source("https", secure.replace("127.0.0.1", "localhost"), **pair)
    assert name.lookup(BLOB) is None
    assert "not trusted" in name.describe()
    assert len(giver.asked) == 1


@pytest.mark.parametrize(
    "members",
    [{"server_ca_path": "absent"}, {"client_cert_path": "both.pem", "client_key_path": "locked.key"}],
)
def test_certificates_that_cannot_be_used(secure: str, tls: Path, members: dict[str, str]) -> None:
    ours = source("https", secure, **{key: str(tls / name) for key, name in members.items()})
    assert ours.lookup(BLOB) is None
    assert "unusable certificate or key" in ours.describe()
