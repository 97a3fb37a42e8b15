"""Scenarios of credentials: challenges, the token server, tokens and links that expire."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.e2e.faults.answers import status
from tests.e2e.faults.scenario import RIGHT, Right, Scenario, Section, fails
from tests.e2e.faults.site import REPOSITORY, Action, Call, Site

BEARER: Mapping[str, Any] = {"auth": "bearer"}
BASIC: Mapping[str, Any] = {"auth": "basic"}
STORE: Mapping[str, Any] = {"redirects": True}
BOTH: Mapping[str, Any] = {"auth": "bearer", "redirects": True}
REFUSED = fails("denied", "GET {url}: 401")


def asking(challenge: str, code: int = 401) -> Action:
    """A refusal with that challenge; `{token}` is the URL of the token server."""

    def fault(call: Call) -> None:
        text = challenge.replace("{token}", f"{call.site.registry.url}/token")
        call.status(code, {"WWW-Authenticate": text})

    return fault


def several(call: Call) -> None:
    """Two headers with three challenges, of which one can be met."""
    if call.site.challenge(call):
        bearer = call.site.bearer()
        headers = [("WWW-Authenticate", 'Negotiate, Digest realm="a, b"'), ("WWW-Authenticate", bearer)]
        call.x.answer(401, headers)
    else:
        call.part()


def lower_case(call: Call) -> None:
    """A challenge with all the freedom that the grammar gives."""
    if call.site.challenge(call):
        realm = f"{call.site.registry.url}/token?account=x"
        call.status(401, {"WWW-Authenticate": f'bEARER  Service=test ,\tREALM = "{realm}"'})
    else:
        call.part()


def expire(call: Call) -> None:
    """All tokens given out so far have expired; new ones are good."""
    call.site.expire_tokens(call)
    call.site.blob(call)


def expire_with_403(call: Call) -> None:
    """As `expire`, for a registry that says 403."""
    call.site.expire_tokens(call)
    asking(call.site.bearer() + ',error="invalid_token"', 403)(call)


def refuse(call: Call) -> None:
    """Whatever token it is, it has expired."""
    asking(call.site.bearer() + ',error="invalid_token"')(call)


def expired_link(code: int) -> Action:
    """The link has expired; a new one is good."""

    def fault(call: Call) -> None:
        if call.x.target.partition("?signature=")[2] in call.site.links:
            call.site.links.clear()
        call.status(code)

    return fault


def challenged(name: str, challenge: str, *says: str, code: int = 401) -> Scenario:
    """A refusal that nothing can be done about."""
    failure = fails("denied", f"GET {{url}}: {code}", *says)
    return Scenario(name, asking(challenge, code), once=failure, lasting=failure)


def at_token(name: str, fault: Action, kind: str, *says: str, once: bool = True) -> Scenario:
    """A token server that does not do its work. With `once` a repetition helps."""
    failure = fails(kind, "/token", *says)
    outcome = RIGHT if once else failure
    return Scenario(name, fault, outcome, failure, part="token", site=BEARER, when=("open",))


def says(body: bytes) -> Action:
    """A status 200 with that body."""
    return lambda call: call.x.answer(200, body=body)


def drip(call: Call) -> None:
    """The head, then a byte of token now and then."""
    call.x.head(200, [("Content-Length", "10000")])
    call.x.trickle(b" " * 10_000)


def other_name(call: Call) -> None:
    """A token under its OAuth name."""
    call.site.token(call, name="access_token")


def short_lived(call: Call) -> None:
    """A token of a life that makes no sense."""
    call.site.token(call, life_s=-5)


def no_user(site: Site) -> Mapping[str, Any]:
    """No credentials are configured."""
    return {"credentialConfig": {"mode": "file", "path": ""}}


TOKEN = "token of {token}"

CREDENTIALS = Section(
    "Credentials",
    "The registry wants to know who asks, or an object store does.",
    (
        Scenario("a Basic challenge", site=BASIC, lasting=RIGHT, once=None, when=("open",)),
        Scenario("a Bearer challenge", site=BEARER, lasting=RIGHT, once=None, when=("open",)),
        Scenario("several challenges", several, RIGHT, RIGHT, site=BEARER),
        Scenario("a challenge in odd spelling", lower_case, RIGHT, RIGHT, site=BEARER),
        Scenario(
            "a Basic challenge, and nobody is configured",
            site=BASIC,
            prepare=no_user,
            once=None,
            lasting=REFUSED,
            when=("open",),
            heals=False,
        ),
        challenged("status 401 without a challenge", ""),
        challenged("status 401 with nonsense as challenge", 'Basic"=,, =;'),
        challenged("status 401 with another scheme", "Negotiate abc="),
        challenged("status 403 with a challenge that is met already", 'Basic realm="x"', code=403),
        Scenario("a token that expires in mid-read", expire, RIGHT, site=BEARER, times=1),
        Scenario(
            "a token that expires in mid-read, said by 403", expire_with_403, RIGHT, site=BEARER, times=1
        ),
        Scenario("tokens that have always expired", refuse, None, REFUSED, site=BEARER),
        *(
            Scenario(
                f"a signed link that has expired, status {code}",
                expired_link(code),
                Right("another link is asked for"),
                fails(kind, f"/bucket/object: {code}"),
                part="store",
                site=STORE,
                times=1,
            )
            for code, kind in ((400, "io"), (401, "denied"), (403, "denied"), (410, "io"))
        ),
        Scenario("token and link expire together", expire, RIGHT, site=BOTH, times=1),
    ),
)

TOKENS = Section(
    "Token server",
    "The registry asks for a token, and the server that gives them out fails.",
    (
        at_token("status 500", status(500), "io", "500"),
        at_token("status 429", status(429), "io", "429"),
        at_token("status 401", status(401), "denied", "401", once=False),
        at_token("status 403", status(403), "denied", "403", once=False),
        at_token("status 404", status(404), "denied", "404", once=False),
        at_token("status 302", status(302, Location="/token2"), "io", "302"),
        at_token("not JSON", says(b"<html>welcome</html>"), "invalid", "holds no token", once=False),
        at_token("JSON without a token", says(b"[1, 2]"), "invalid", "holds no token", once=False),
        at_token("deep JSON", says(b"[" * 100_000), "invalid", "holds no token", once=False),
        at_token(
            "a token that would be two headers",
            says(json.dumps({"token": "a\r\nX: hidden"}).encode()),
            "invalid",
            "not a token",
            once=False,
        ),
        replace(at_token("5 MiB of answer", says(bytes(5 << 20)), "limit", "longer than"), once=None),
        at_token("connection closed", lambda call: call.x.close(), "io"),
        replace(
            at_token("silence", lambda call: call.x.hold(), "timed-out", "no answer in time"),
            once=Right("after the time limit"),
            times=1,
        ),
        replace(at_token("an answer that drips", drip, "timed-out"), once=None),
        at_token("connection reset", lambda call: call.x.reset(), "io"),
        Scenario("`access_token` in place of `token`", other_name, RIGHT, RIGHT, part="token", site=BEARER),
        Scenario("a life of less than nothing", short_lived, RIGHT, RIGHT, part="token", site=BEARER),
        Scenario(
            "is not there",
            asking(f'Bearer realm="http://127.0.0.1:1/token",scope="repository:{REPOSITORY}:pull"'),
            RIGHT,
            fails("io", "http://127.0.0.1:1/token"),
            times=1,
        ),
        Scenario(
            "is a file",
            asking('Bearer realm="file:///etc/passwd"'),
            fails("invalid", "no usable realm"),
            fails("invalid", "no usable realm"),
        ),
    ),
)
