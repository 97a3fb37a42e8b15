"""Endpoints of a registry: which is asked when, and what a failure does to it."""

import logging

import pytest

import obdcore
from obd.blob_locator import LACKING_S, LYING_S, STALE_S, BlobLocator
from obd.credentials import Credential, CredentialSource
from obd.endpoints import FIRST_PAUSE_S, LONGEST_PAUSE_S, TRIAL_S, Endpoint, Health, Mirror, P2p
from obd.redirect import Redirect
from obd.registry import Registry

BLOB = "https://r.example/v2/team/app/blobs/sha256:00"
CDN = "https://cdn.example/x?sig=1"


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_failure_puts_aside_for_a_growing_bounded_time(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    health = Health("mirror m", clock)
    pause = FIRST_PAUSE_S
    for _ in range(40):
        health.failed("refused")
        health.failed("refused")  # another request that was under way: no second failure
        assert not health.usable()
        clock.now += pause - 0.01
        assert not health.usable()
        clock.now += 0.02
        # One tries it; the others wait for what comes of that.
        assert [health.usable() for _ in range(3)] == [True, False, False]
        pause = min(2 * pause, LONGEST_PAUSE_S)
    assert len(caplog.messages) == 1, "said once, not for each failure"
    clock.now += TRIAL_S
    with caplog.at_level(logging.INFO):
        assert [health.usable() for _ in range(3)] == [True] * 3
    assert "answers again" in caplog.messages[-1]
    health.failed("refused")
    clock.now += FIRST_PAUSE_S
    assert health.usable(), "an old failure does not count any more"


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://m:5000", "http://m:5000/v2/team/app/blobs/sha256:00"),
        ("http://[::1]:5000/", "http://[::1]:5000/v2/team/app/blobs/sha256:00"),
        ("https://m/v2/proxy", "https://m/v2/proxy/team/app/blobs/sha256:00"),
        ("https://m/cache", "https://m/cache/v2/team/app/blobs/sha256:00"),
    ],
)
def test_the_blob_at_a_mirror(base: str, url: str) -> None:
    assert Mirror(base).url(BLOB) == url


@pytest.mark.parametrize(
    ("address", "prefix", "proxy"),
    [
        ("http://127.0.0.1:9731/accelerator", "http://127.0.0.1:9731/accelerator/", "http://127.0.0.1:9731"),
        ("localhost:19145/dadip2p", "http://localhost:19145/dadip2p/", "http://localhost:19145"),
        ("[::1]:80/", "http://[::1]:80/", "http://[::1]:80"),
        ("https://p2p.site.example", "https://p2p.site.example/", "https://p2p.site.example"),
    ],
)
def test_addresses_of_p2p_proxies(address: str, prefix: str, proxy: str) -> None:
    assert P2p(address, "prefix").prefixed(CDN) == prefix + CDN
    assert P2p(address, "proxy").proxy == proxy


class Fixed(CredentialSource):
    """Each host has a user of its own."""

    def lookup(self, blob_url: str) -> Credential | None:
        return Credential(blob_url.split("/")[2], "p")

    def describe(self) -> str:
        return "the test"


class Answers(Registry):
    """A registry whose redirects are known beforehand."""

    redirect: Redirect | None = None
    asked = 0

    def resolve(self, url: str) -> Redirect | None:
        self.asked += 1
        return self.redirect


def locator(*endpoints: Endpoint, clock: Clock | None = None) -> tuple[BlobLocator, Answers]:
    registry = Answers(Fixed())
    return BlobLocator(registry, BLOB, endpoints, clock or Clock()), registry


def challenge(where: BlobLocator) -> obdcore.Target:
    """The next target, after it asked for Basic authentication."""
    assert where.refused(401, [("WWW-Authenticate", "Basic")], where.locate())
    return where.locate()


def test_mirrors_come_in_order_and_the_registry_last() -> None:
    clock = Clock()
    where, _ = locator(Mirror("http://a", clock), Mirror("http://b", clock), clock=clock)
    seen = []
    for _ in range(3):
        target = where.locate()
        seen.append(target.url)
        more = where.failed(None, "refused", target)
    assert seen == ["http://a/v2/team/app/blobs/sha256:00", "http://b/v2/team/app/blobs/sha256:00", BLOB]
    assert not more, "after the registry there is nothing to be tried at once"
    assert where.locate().url == BLOB
    clock.now += FIRST_PAUSE_S
    assert where.locate().url.startswith("http://a")


def test_each_host_gets_its_own_credentials() -> None:
    where, _ = locator(Mirror("https://a"))
    assert challenge(where).headers == [("Authorization", Credential("a", "p").basic())]
    where.failed(404, "404", where.locate())
    target = where.locate()
    assert (target.url, target.headers) == (BLOB, []), "no header of the mirror, and no challenge yet"
    assert challenge(where).headers == [("Authorization", Credential("r.example", "p").basic())]


def test_what_a_mirror_lacks_is_no_fault_of_its() -> None:
    clock = Clock()
    mirror = Mirror("http://a", clock)
    where, _ = locator(mirror, clock=clock)
    other, _ = locator(mirror, clock=clock)
    assert where.failed(404, "404", where.locate())
    assert where.locate().url == BLOB
    assert other.locate().url.startswith("http://a"), "it may have other blobs"
    clock.now += LACKING_S
    assert where.locate().url.startswith("http://a")
    assert where.failed(500, "500", where.locate())
    assert other.locate().url == BLOB, "but a failure counts for all"


def test_who_lies_is_not_asked_for_that_blob() -> None:
    clock = Clock()
    where, _ = locator(Mirror("http://a", clock), clock=clock)
    where.distrusted(where.locate())
    registry = where.locate()
    assert registry.url == BLOB
    clock.now += LYING_S
    assert where.locate().url.startswith("http://a")
    # If it is the registry that lies, the mirror comes before it anyway; if both do, somebody is asked.
    where.distrusted(registry)
    where.distrusted(where.locate())
    assert where.locate().url == BLOB
    alone, _ = locator()
    alone.distrusted(alone.locate())
    assert alone.locate().url == BLOB


def test_p2p_as_a_prefix() -> None:
    clock = Clock()
    where, registry = locator(P2p("http://127.0.0.1:9731/acc", "prefix", clock), clock=clock)
    target = where.locate()
    assert (target.url, target.headers, target.proxy) == (f"http://127.0.0.1:9731/acc/{BLOB}", [], "")
    assert where.locate().url == target.url and registry.asked == 1, "the registry is asked once"
    # A refusal may be the registry's: it is asked itself, and learns what it wants to see.
    assert all(where.refused(401, [("WWW-Authenticate", "Basic")], target) for _ in range(3))
    direct = challenge(where)
    assert (direct.url, direct.proxy) == (BLOB, None)
    clock.now += STALE_S
    basic = [("Authorization", Credential("r.example", "p").basic())]
    assert (where.locate().url, where.locate().headers) == (target.url, basic)
    # Behind a redirect there is no credential to show.
    registry.redirect = Redirect(CDN, False, None)
    target = where.locate()
    assert [where.refused(403, [], target) for _ in range(3)] == [True] * 3
    clock.now += STALE_S
    assert where.locate().url == BLOB, "refused again: it is not the link"
    clock.now += LACKING_S
    target = where.locate()
    assert (target.url, target.headers) == (f"http://127.0.0.1:9731/acc/{CDN}", [])
    # The proxy is down: the registry, until it is not.
    assert where.failed(None, "refused", target)
    assert where.locate().url == BLOB
    clock.now += FIRST_PAUSE_S
    assert where.locate().url == target.url


def test_p2p_as_a_proxy() -> None:
    where, registry = locator(P2p("127.0.0.1:65001", "proxy"))
    target = challenge(where)
    assert (target.url, target.proxy) == (BLOB, "http://127.0.0.1:65001")
    assert target.headers == [("Authorization", Credential("r.example", "p").basic())]
    assert where.refused(307, [("Location", CDN)], target)
    target = where.locate()
    assert (target.url, target.proxy, target.headers) == (CDN, "http://127.0.0.1:65001", [])
    assert where.failed(None, "refused", target)
    target = where.locate()
    assert (target.url, target.proxy) == (BLOB, None)
    assert registry.asked == 0


def test_a_way_that_cannot_be_found_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    where, registry = locator(P2p("http://127.0.0.1:9731", "prefix"))

    def broken(url: str) -> Redirect | None:
        raise OSError("the registry's host is not found")

    monkeypatch.setattr(registry, "resolve", broken)
    assert where.locate().url == BLOB
