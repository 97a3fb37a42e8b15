"""The dialogue with a registry as the core drives it: tokens, redirects, refusals."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest

import obdcore
from obd.blob_locator import BlobLocator
from obd.credentials import Credential, CredentialSource
from obd.errors import ObdError
from obd.redirect import follow
from obd.registry import Registry
from obd.session import make_session
from obd.token import TokenCache, TokenKey
from tests.e2e.servers import QuietHandler, serving

BLOB = "https://localhost/v2/a/blobs/sha256:00"


class Tokens:
    """What the token server of the tests is asked, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, list[str]], str]] = []
        self.answer: tuple[int, bytes] | None = None
        self.refuse = "nobody"
        self.gate = threading.Event()
        self.gate.set()
        self.url = ""


@pytest.fixture
def tokens() -> Iterator[Tokens]:
    state = Tokens()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.give(parse_qs(urlsplit(self.path).query))

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            self.give(parse_qs(self.rfile.read(length).decode()))

        def give(self, form: dict[str, list[str]]) -> None:
            sent = self.headers.get("Authorization", "")
            state.asked.append((form, sent))
            state.gate.wait(10)
            if sent == state.refuse:
                self.answer(401)
                return
            good = json.dumps({"token": f"t{len(state.asked)}", "expires_in": 100}).encode()
            self.answer(*(state.answer or (200, good)))

    with serving(Handler) as url:
        state.url = url + "/token"
        yield state


class Fixed(CredentialSource):
    """Credentials that are always the same."""

    def __init__(self, credential: Credential | None = None) -> None:
        self.credential = credential

    def lookup(self, blob_url: str) -> Credential | None:
        return self.credential

    def describe(self) -> str:
        return "the test"


def key(tokens: Tokens, scope: str = "repository:a:pull", user: str = "") -> TokenKey:
    return TokenKey(tokens.url, "s", scope, Credential(user, "p") if user else None)


def test_one_request_for_many_who_wait(tokens: Tokens) -> None:
    cache = TokenCache(make_session())
    tokens.gate.clear()
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(cache.get, key(tokens)) for _ in range(20)]
        tokens.gate.set()
        assert {future.result().value for future in waiting} == {"t1"}
    assert len(tokens.asked) == 1


def test_tokens_are_kept_apart_and_for_their_life(tokens: Tokens) -> None:
    now = [0.0]
    cache = TokenCache(make_session(), clock=lambda: now[0])
    keys = [key(tokens), key(tokens, user="u"), key(tokens, user="v"), key(tokens, "repository:b:pull")]
    assert [cache.get(k).value for k in keys] == ["t1", "t2", "t3", "t4"]
    assert [cache.get(k).value for k in keys] == ["t1", "t2", "t3", "t4"]
    assert tokens.asked[1] == (
        {"service": ["s"], "scope": ["repository:a:pull"]},
        Credential("u", "p").basic(),
    )
    now[0] = 67.0
    assert cache.get(keys[0]).value == "t1"
    now[0] = 91.0
    assert cache.get(keys[0]).value == "t5", "a token is replaced before it expires"


def test_a_token_is_replaced_while_it_is_used(tokens: Tokens) -> None:
    now = [0.0]
    cache = TokenCache(make_session(), clock=lambda: now[0])
    assert cache.get(key(tokens)).value == "t1"
    now[0] = 70.0
    tokens.gate.clear()
    # Nobody waits for the next one, and it is asked for once.
    assert [cache.get(key(tokens)).value for _ in range(20)] == ["t1"] * 20
    tokens.gate.set()
    now[0] = 91.0
    # Who needs it now gets what was asked for then.
    assert cache.get(key(tokens)).value == "t2"
    assert len(tokens.asked) == 2


def test_a_refresh_that_fails_takes_nothing_away(tokens: Tokens, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    cache = TokenCache(make_session(), clock=lambda: now[0])
    cache.get(key(tokens))
    tokens.answer = (500, b"")
    now[0] = 70.0
    assert cache.get(key(tokens)).value == "t1"
    while "used to its end" not in caplog.text:
        assert cache.get(key(tokens)).value == "t1"
    assert len(tokens.asked) == 2, "it is not asked again and again"
    tokens.answer = None
    now[0] = 76.0
    cache.get(key(tokens))
    now[0] = 91.0
    assert cache.get(key(tokens)).value == "t3"


def test_the_query_of_a_realm_is_kept_and_values_are_encoded(tokens: Tokens) -> None:
    realm = tokens.url + "?account=x"
    TokenCache(make_session()).get(TokenKey(realm, "a&b c", "repository:a/b:pull,push", None))
    assert tokens.asked[0][0] == {
        "account": ["x"],
        "service": ["a&b c"],
        "scope": ["repository:a/b:pull,push"],
    }


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b"", "denied"),
        (500, b"", "io"),
        (302, b"", "io"),
        (200, b"no json", "invalid"),
        (200, b"[]", "invalid"),
        (200, b'{"token": 7}', "invalid"),
        (200, b'{"token": "a\\r\\nX: b"}', "invalid"),
        (200, b'{"token": ""}', "invalid"),
    ],
)
def test_what_is_no_token(tokens: Tokens, status: int, body: bytes, kind: str) -> None:
    tokens.answer = (status, body)
    cache = TokenCache(make_session())
    with pytest.raises(ObdError) as caught:
        cache.get(key(tokens, user="u"))
    assert caught.value.kind == kind
    assert "127.0.0.1" in str(caught.value) and "scope" not in str(caught.value)
    tokens.answer = None
    assert cache.get(key(tokens, user="u")).value == "t2", "a failure is not kept"


def test_access_token_and_odd_lives(tokens: Tokens) -> None:
    now = [0.0]
    for life in ("null", "-1", "true", '"x"', "1e400", "NaN"):
        cache = TokenCache(make_session(), clock=lambda: now[0])
        tokens.answer = (200, f'{{"access_token": "hidden", "expires_in": {life}}}'.encode())
        token = cache.get(key(tokens))
        assert token.value == "hidden" and 50 <= token.until <= 24 * 3600
        assert "hidden" not in repr(token)


def target(locator: BlobLocator) -> tuple[str, list[tuple[str, str]]]:
    """URL and headers of the next GET."""
    found = locator.locate()
    return found.url, found.headers


def at(url: str = BLOB, sent: list[tuple[str, str]] | None = None) -> obdcore.Target:
    """The target of a GET that was sent."""
    return obdcore.Target(url, sent or [])


def test_bearer_dialogue(tokens: Tokens) -> None:
    registry = Registry(Fixed())
    locator = BlobLocator(registry, BLOB)
    assert target(locator) == (BLOB, [])
    asks = [("www-authenticate", f'Bearer realm="{tokens.url}",service="s",scope="repository:other:pull"')]
    assert locator.refused(401, asks, at())
    assert target(locator) == (BLOB, [("Authorization", "Bearer t1")])
    # The scope is that of the blob, not that of the challenge; the next blob needs no challenge.
    assert tokens.asked[0][0]["scope"] == ["repository:a:pull"]
    assert target(BlobLocator(registry, BLOB))[1] == [("Authorization", "Bearer t1")]
    other = BlobLocator(registry, BLOB.replace("/a/", "/b/"))
    assert target(other)[1] == [("Authorization", "Bearer t2")]
    # A refusal of what nobody would send any more is cured by trying again, without a new token.
    assert locator.refused(401, asks, at(sent=[("Authorization", "Bearer old")]))
    assert len(tokens.asked) == 2
    # A fresh token that is refused does not allow what is asked.
    assert not locator.refused(401, asks, at(sent=[("Authorization", "Bearer t1")]))
    assert not locator.refused(403, [], at())
    assert not locator.refused(400, asks, at())


def test_an_old_token_that_is_refused_is_replaced(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(Fixed())
    locator = BlobLocator(registry, BLOB)
    asks = [("WWW-Authenticate", f'Bearer realm="{tokens.url}"')]
    assert locator.refused(401, asks, at())
    monkeypatch.setattr("obd.registry.FRESH_S", 0.0)
    assert locator.refused(401, asks, locator.locate())
    assert target(locator)[1] == [("Authorization", "Bearer t2")]


def test_a_challenge_that_cannot_be_met_is_forgotten(tokens: Tokens) -> None:
    registry = Registry(Fixed())
    locator = BlobLocator(registry, BLOB)
    for realm in ("file:///etc/passwd", "http://127.0.0.1:1/token"):
        with pytest.raises(ObdError):
            locator.refused(401, [("WWW-Authenticate", f'Bearer realm="{realm}"')], at())
        # The registry is asked again, and may have come to its senses.
        assert target(locator) == (BLOB, [])
    assert locator.refused(401, [("WWW-Authenticate", f'Bearer realm="{tokens.url}"')], at())
    assert target(locator) == (BLOB, [("Authorization", "Bearer t1")])


def test_basic_dialogue() -> None:
    credentials = Fixed(Credential("u", "p"))
    locator = BlobLocator(Registry(credentials), BLOB)
    asks = [("WWW-Authenticate", 'Basic realm="x"')]
    assert locator.refused(401, asks, at())
    sent = locator.locate()
    assert sent.headers == [("Authorization", Credential("u", "p").basic())]
    assert not locator.refused(401, asks, sent), "the same again is of no use"
    credentials.credential = Credential("u", "new")
    assert locator.refused(401, asks, sent), "an edited file is"
    credentials.credential = None
    assert not locator.refused(401, asks, at()), "nothing to answer with"


class Slow(Fixed):
    """A source that keeps its answer until it is told that it was refused."""

    def __init__(self, kept: Credential, new: Credential) -> None:
        super().__init__(kept)
        self.new = new
        self.forgotten = 0

    def forget(self, blob_url: str) -> None:
        self.forgotten += 1
        self.credential = self.new


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_a_source_looks_again_when_it_is_refused(tokens: Tokens, scheme: str) -> None:
    old, new = Credential("u", "old"), Credential("u", "new")
    source = Slow(old, new)
    locator = BlobLocator(Registry(source), BLOB.replace("https", "http"))
    asks = [("WWW-Authenticate", 'Basic realm="x"' if scheme == "Basic" else f'Bearer realm="{tokens.url}"')]
    tokens.refuse = old.basic()
    sent = [("Authorization", old.basic())] if scheme == "Basic" else []
    url = BLOB.replace("https", "http")
    assert locator.refused(401, asks, at(url, sent))
    assert source.forgotten == 1
    authorization = dict(target(locator)[1])["Authorization"]
    assert authorization == (new.basic() if scheme == "Basic" else "Bearer t2")
    # Once: what is refused afresh stays refused.
    assert not locator.refused(401, asks, locator.locate())
    assert source.forgotten == 2


def test_an_identity_token_is_traded_for_a_token_by_post(tokens: Tokens) -> None:
    credential = Credential("", "", identity_token="idtoken")
    locator = BlobLocator(Registry(Fixed(credential)), BLOB.replace("https", "http"))
    asks = [("WWW-Authenticate", f'Bearer realm="{tokens.url}",service="s"')]
    assert locator.refused(401, asks, at(BLOB.replace("https", "http")))
    assert target(locator)[1] == [("Authorization", "Bearer t1")]
    form = {name: [value] for name, value in [("service", "s"), ("scope", "repository:a:pull")]}
    assert tokens.asked[0] == (
        {"grant_type": ["refresh_token"], "client_id": ["overlaybd"], "refresh_token": ["idtoken"], **form},
        "",
    )
    # A registry itself gets nothing of it.
    assert not locator.refused(401, [("WWW-Authenticate", "Basic")], at(BLOB.replace("https", "http")))


def test_messages_say_which_credentials_were_tried() -> None:
    assert BlobLocator(Registry(), BLOB).describe() == "anonymous: no credentials are configured"
    none = BlobLocator(Registry(Fixed()), BLOB).describe()
    assert none == "anonymous: no credentials for this registry in the test"
    user = BlobLocator(Registry(Fixed(Credential("ann", "hidden"))), BLOB).describe()
    assert user == 'credentials: the test, user "ann"'
    token = BlobLocator(Registry(Fixed(Credential("", "", "hidden"))), BLOB).describe()
    assert token == "credentials: the test, identity token"


def test_a_password_is_not_sent_in_the_clear() -> None:
    locator = BlobLocator(Registry(Fixed(Credential("u", "p"))), BLOB)
    asks = [("WWW-Authenticate", 'Bearer realm="http://evil.example/"')]
    with pytest.raises(ObdError, match="in the clear"):
        locator.refused(401, asks, at())


def test_redirects_drop_credentials_when_the_host_changes() -> None:
    locator = BlobLocator(Registry(Fixed(Credential("u", "p"))), BLOB)
    locator.refused(401, [("WWW-Authenticate", "Basic")], at())
    auth = locator.locate().headers
    assert locator.refused(307, [("Location", "/elsewhere?x=1")], at(sent=auth))
    assert target(locator) == ("https://localhost/elsewhere?x=1", auth)
    assert locator.refused(
        302, [("location", "//cdn.example/x")], at("https://localhost/elsewhere?x=1", auth)
    )
    assert target(locator) == ("https://cdn.example/x", [])
    # The link went bad: back to the registry.
    assert locator.refused(403, [], at("https://cdn.example/x"))
    assert target(locator) == (BLOB, auth)
    # Another scheme or port is another host.
    for other in ("http://localhost/x", "https://localhost:444/x"):
        assert locator.refused(307, [("Location", other)], at(sent=auth))
        assert target(locator) == (other, [])
    for bad in ("", "ftp://localhost/", "https://localhost:x/", "file:///etc/passwd"):
        assert not locator.refused(307, [("Location", bad)], at(sent=auth))
    assert not locator.refused(307, [], at(sent=auth))


def test_links_end_when_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000.0  # 2023-11-14T22:13:20Z
    monkeypatch.setattr("time.time", lambda: now)
    for query, end in [
        ("X-Amz-Date=20231114T221320Z&X-Amz-Expires=600", 600),
        ("x-goog-date=20231114T221320Z&x-goog-expires=600", 600),
        ("Expires=1700000600&Signature=x", 600),
        ("se=2023-11-14T22%3A23%3A20Z&sig=x", 600),
        ("Expires=1700000020", 20),
        ("Expires=1600000000", None),  # ended before it came: a clock that is not ours
        ("X-Amz-Date=garbage&X-Amz-Expires=600", None),
        ("a=b", None),
    ]:
        redirect = follow(BLOB, f"https://cdn.example/x?{query}", BLOB)
        assert redirect is not None
        assert not redirect.expired()
        margin = None if end is None else min(30.0, end / 2)
        assert redirect.until == (None if end is None or margin is None else now + end - margin), query
        assert "sig" not in repr(redirect).lower()


def test_links_are_followed_with_capitals_in_the_scheme_and_spaces_around() -> None:
    found = follow(BLOB, "HTTPS://cdn.example/X?sign=", BLOB)
    assert found is not None and found.url == "https://cdn.example/X?sign="
    spaced = follow(BLOB, " http://cdn.example/X ", BLOB)
    assert spaced is not None and spaced.url == "http://cdn.example/X"
