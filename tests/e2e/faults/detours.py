"""Scenarios of mirrors and P2P proxies: ways to a blob that are not the registry's own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.e2e.faults.answers import cut, elsewhere, status
from tests.e2e.faults.connections import drip_body, half_a_body, nothing, then
from tests.e2e.faults.contents import flipped, longer, zeros
from tests.e2e.faults.scenario import RIGHT, Outcome, Right, Scenario, Section, fails
from tests.e2e.faults.site import Action, Call, Site

OTHER = Right("from the registry")


def with_mirror(site: Site) -> Mapping[str, Any]:
    """There is a mirror."""
    return {"registries": {site.host: {"mirrors": [site.server("mirror").url]}}}


def with_prefix(site: Site) -> Mapping[str, Any]:
    """There is a proxy whose address goes before URLs."""
    address = f"{site.server('proxy').url}/accelerator"
    return {"p2pConfig": {"enable": True, "address": address}}


def with_proxy(site: Site) -> Mapping[str, Any]:
    """There is a proxy as HTTP knows them."""
    return {"p2pConfig": {"enable": True, "address": site.server("proxy").url, "mode": "proxy"}}


def gone(name: str, site: Site, lasting: bool) -> None:
    """One server refuses connections."""
    site.server(name).refuse()


def registry_gone(site: Site, lasting: bool) -> None:
    """The registry refuses connections; its mirror does not."""
    site.registry.refuse()


def both_gone(site: Site, lasting: bool) -> None:
    """Neither accepts connections."""
    site.registry.refuse()
    site.server("mirror").refuse()


def both_lie(site: Site, lasting: bool) -> None:
    """Both send wrong bytes."""
    for part in ("blob", "mirror"):
        site.scripts[part].lasting = flipped


def registry_lies(site: Site, lasting: bool) -> None:
    """The registry sends wrong bytes, and its mirror knows nothing."""
    site.scripts["blob"].lasting = flipped
    site.scripts["mirror"].lasting = lambda call: call.status(404)


def at_mirror(name: str, fault: Action | None, outcome: Outcome = OTHER, **more: Any) -> Scenario:
    """A mirror that does its work badly, before a registry that does it well."""
    logs = more.pop("logs", "mirror {mirror}")
    made = Scenario(name, fault, outcome, outcome, part="mirror", prepare=with_mirror, logs=logs)
    return replace(made, **more)


def at_proxy(name: str, fault: Action | None, **more: Any) -> Scenario:
    """A P2P proxy that does its work badly."""
    made = Scenario(name, fault, OTHER, OTHER, part="proxy", prepare=with_prefix, logs="P2P proxy {proxy}")
    return replace(made, **more)


def healthy(call: Call) -> None:
    """What it should."""
    call.part()


MIRRORS = Section(
    "Mirrors",
    "The registry has a mirror (`registries.HOST.mirrors`), which is asked first. The log names the"
    " mirror that is passed over, and why.",
    (
        at_mirror("the mirror works", healthy, RIGHT, once=None, logs=""),
        at_mirror("refused", None, breaks=lambda site, _: gone("mirror", site, True), once=None),
        at_mirror("status 404", status(404)),
        at_mirror("status 401", status(401, WWW_Authenticate='Basic realm="mirror"')),
        at_mirror("status 403", status(403)),
        at_mirror("status 429", status(429, Retry_After="60")),
        at_mirror("status 500", status(500)),
        at_mirror("a redirect to nowhere", status(302)),
        at_mirror("another range", elsewhere),
        at_mirror("a blob of another length", longer),
        at_mirror("the connection ends in the body", cut(1000)),
        at_mirror("silence in place of an answer", then(nothing, "hold"), times=1),
        at_mirror("silence in the body", then(half_a_body, "hold"), times=1),
        at_mirror("a body that drips", drip_body, once=None),
        at_mirror("flipped bits", flipped, times=1, when=("read",)),
        at_mirror("zeros", zeros, times=1, when=("read",)),
        at_mirror("the registry is gone", None, RIGHT, breaks=registry_gone, once=None, logs=""),
        at_mirror(
            "both are gone",
            None,
            fails("io", "given up after 5 attempts", "refused"),
            breaks=both_gone,
            once=None,
        ),
        at_mirror(
            "both send wrong bytes",
            None,
            fails("corrupt", "checksum"),
            breaks=both_lie,
            once=None,
            when=("read",),
        ),
        at_mirror(
            "the mirror has nothing, and the registry sends wrong bytes",
            None,
            fails("corrupt", "checksum"),
            breaks=registry_lies,
            once=None,
            when=("read",),
        ),
    ),
)

P2P = Section(
    "P2P proxies",
    "Blobs are read through a proxy of the host (`p2pConfig`), which fetches them from peers.",
    (
        at_proxy("the proxy works", healthy, once=None, lasting=RIGHT, logs=""),
        at_proxy(
            "the proxy works, behind a registry with tokens and an object store",
            healthy,
            once=None,
            lasting=RIGHT,
            logs="",
            site={"auth": "bearer", "redirects": True},
        ),
        at_proxy("refused", None, breaks=lambda site, _: gone("proxy", site, True), once=None),
        at_proxy("status 502", status(502)),
        at_proxy("status 404", status(404)),
        at_proxy("status 403", status(403)),
        at_proxy("a redirect", status(307, Location="http://127.0.0.1:1/")),
        at_proxy("dies in mid-read", then(half_a_body, "reset")),
        at_proxy("silence in place of an answer", then(nothing, "hold"), times=1),
        at_proxy(
            "the whole blob where a range was asked for", lambda call: call.x.answer(200, body=call.site.data)
        ),
        at_proxy("flipped bits", flipped, times=1, when=("read",)),
        at_proxy("as HTTP proxy: works", healthy, once=None, lasting=RIGHT, logs="", prepare=with_proxy),
        at_proxy(
            "as HTTP proxy: refused",
            None,
            breaks=lambda site, _: gone("proxy", site, True),
            once=None,
            prepare=with_proxy,
        ),
        at_proxy("as HTTP proxy: status 502", status(502), prepare=with_proxy),
        at_proxy("as HTTP proxy: flipped bits", flipped, times=1, when=("read",), prepare=with_proxy),
    ),
)
