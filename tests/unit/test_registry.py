"""The dialogue with a registry as the core drives it: tokens, redirects, refusals."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest

from obd.credentials import Credential, CredentialSource
from obd.errors import ObdError
from obd.redirect import follow
from obd.registry import BlobLocator, Registry
from obd.session import make_session
from obd.token import TokenCache, TokenKey
from tests.e2e.servers import QuietHandler, serving

BLOB = "https://r.example/v2/a/blobs/sha256:00"


class Tokens:
    """What the token server of the tests is asked, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, list[str]], str]] = []
        self.answer: tuple[int, bytes] | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.url = ""


@pytest.fixture
def tokens() -> Iterator[Tokens]:
    state = Tokens()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            state.asked.append((query, self.headers.get("Authorization", "")))
            state.gate.wait(10)
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
    now[0] = 89.0
    assert cache.get(keys[0]).value == "t1"
    now[0] = 91.0
    assert cache.get(keys[0]).value == "t5", "a token is replaced before it expires"


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


def test_bearer_dialogue(tokens: Tokens) -> None:
    registry = Registry(Fixed())
    locator = BlobLocator(registry, BLOB)
    assert locator.locate() == (BLOB, [])
    asks = [("www-authenticate", f'Bearer realm="{tokens.url}",service="s",scope="repository:other:pull"')]
    assert locator.refused(401, asks, BLOB, [])
    assert locator.locate() == (BLOB, [("Authorization", "Bearer t1")])
    # The scope is that of the blob, not that of the challenge; the next blob needs no challenge.
    assert tokens.asked[0][0]["scope"] == ["repository:a:pull"]
    assert BlobLocator(registry, BLOB).locate()[1] == [("Authorization", "Bearer t1")]
    other = BlobLocator(registry, BLOB.replace("/a/", "/b/"))
    assert other.locate()[1] == [("Authorization", "Bearer t2")]
    # A refusal of what nobody would send any more is cured by trying again, without a new token.
    assert locator.refused(401, asks, BLOB, [("Authorization", "Bearer old")])
    assert len(tokens.asked) == 2
    # A fresh token that is refused does not allow what is asked.
    assert not locator.refused(401, asks, BLOB, [("Authorization", "Bearer t1")])
    assert not locator.refused(403, [], BLOB, [])
    assert not locator.refused(400, asks, BLOB, [])


def test_an_old_token_that_is_refused_is_replaced(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(Fixed())
    locator = BlobLocator(registry, BLOB)
    asks = [("WWW-Authenticate", f'Bearer realm="{tokens.url}"')]
    assert locator.refused(401, asks, BLOB, [])
    monkeypatch.setattr("obd.registry.FRESH_S", 0.0)
    assert locator.refused(401, asks, BLOB, locator.locate()[1])
    assert locator.locate()[1] == [("Authorization", "Bearer t2")]


def test_basic_dialogue() -> None:
    credentials = Fixed(Credential("u", "p"))
    locator = BlobLocator(Registry(credentials), BLOB)
    asks = [("WWW-Authenticate", 'Basic realm="x"')]
    assert locator.refused(401, asks, BLOB, [])
    sent = locator.locate()[1]
    assert sent == [("Authorization", Credential("u", "p").basic())]
    assert not locator.refused(401, asks, BLOB, sent), "the same again is of no use"
    credentials.credential = Credential("u", "new")
    assert locator.refused(401, asks, BLOB, sent), "an edited file is"
    credentials.credential = None
    assert not locator.refused(401, asks, BLOB, []), "nothing to answer with"


def test_a_password_is_not_sent_in_the_clear() -> None:
    locator = BlobLocator(Registry(Fixed(Credential("u", "p"))), BLOB)
    asks = [("WWW-Authenticate", 'Bearer realm="http://evil.example/"')]
    with pytest.raises(ObdError, match="in the clear"):
        locator.refused(401, asks, BLOB, [])


def test_redirects_drop_credentials_when_the_host_changes() -> None:
    locator = BlobLocator(Registry(Fixed(Credential("u", "p"))), BLOB)
    locator.refused(401, [("WWW-Authenticate", "Basic")], BLOB, [])
    auth = locator.locate()[1]
    assert locator.refused(307, [("Location", "/elsewhere?x=1")], BLOB, auth)
    assert locator.locate() == ("https://r.example/elsewhere?x=1", auth)
    assert locator.refused(302, [("location", "//cdn.example/x")], "https://r.example/elsewhere?x=1", auth)
    assert locator.locate() == ("https://cdn.example/x", [])
    # The link went bad: back to the registry.
    assert locator.refused(403, [], "https://cdn.example/x", [])
    assert locator.locate() == (BLOB, auth)
    # Another scheme or port is another host.
    for target in ("http://r.example/x", "https://r.example:444/x"):
        assert locator.refused(307, [("Location", target)], BLOB, auth)
        assert locator.locate() == (target, [])
    for bad in ("", "ftp://r.example/", "https://r.example:x/", "file:///etc/passwd"):
        assert not locator.refused(307, [("Location", bad)], BLOB, auth)
    assert not locator.refused(307, [], BLOB, auth)


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
