"""Policy of one blob: which endpoint the core asks next, with which headers, and what a failure means."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import obdcore
from obd.endpoints import Endpoint, P2p
from obd.errors import line_of
from obd.redirect import Redirect, follow
from obd.secret import without_secrets

if TYPE_CHECKING:
    from obd.registry import Registry

_log: Final = logging.getLogger("overlaybd.registry")

# Seconds for which the core may use an answer of `locate` again without asking.
FRESH_S: Final = 1.0
# Longest time of one request where another endpoint could be asked instead.
SHARE_S: Final = 10.0
# Seconds for which an endpoint is not asked for one blob: when it does not have it or does not give it, when
# a link through it went bad, and when it sent wrong bytes.
LACKING_S: Final = 60.0
STALE_S: Final = 2.0
LYING_S: Final = 600.0

Headers = list[tuple[str, str]]


class _Route:
    """One endpoint as a way to one blob."""

    def __init__(self, endpoint: Endpoint, blob_url: str) -> None:
        self.endpoint: Final = endpoint
        self.url: Final = endpoint.url(blob_url)
        self.redirect: Redirect | None = None
        # Of a P2P proxy: whether the registry has been asked for a redirect.
        self.resolved = False
        self.avoided_until = 0.0
        # Of a P2P proxy: until when another refusal is more than a link that went bad.
        self.suspect_until = 0.0

    def link(self) -> Redirect | None:
        """The redirect, while it is good."""
        redirect = self.redirect
        return redirect if redirect is not None and not redirect.expired() else None


class BlobLocator:
    """The core's `obdcore.Locator` of the blob at `url`; `endpoints` come before the registry itself."""

    def __init__(
        self,
        registry: Registry,
        url: str,
        endpoints: Sequence[Endpoint] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._url = url
        self._clock = clock
        self._routes = [_Route(endpoint, url) for endpoint in (*endpoints, Endpoint(without_secrets(url)))]
        self._resolving = threading.Lock()

    def locate(self) -> obdcore.Target:
        """The target of the next GET. Raises `ObdError` if the registry itself is next and gives no token."""
        last = len(self._routes) - 1
        while (number := self._pick()) != last:
            route = self._routes[number]
            try:
                return self._target(number, route)
            except OSError as error:
                # No link or token for this way; the next one may do without.
                self._avoid(route, LACKING_S, line_of(error))
        return self._target(last, self._routes[last])

    def refused(self, status: int, headers: Headers, target: obdcore.Target) -> bool:
        """Takes note of an answer that brought no bytes; whether `locate` has something new."""
        route = self._routes[target.endpoint]
        if 300 <= status < 400:
            location = next((value for name, value in headers if name.lower() == "location"), "")
            if isinstance(route.endpoint, P2p) and route.endpoint.prefix:
                # It is the proxy's business where its bytes are; to us it is no way any more.
                self._avoid(route, LACKING_S, f"status {status}")
                return True
            route.redirect = follow(target.url, location, route.url)
            return route.redirect is not None
        if isinstance(route.endpoint, P2p) and route.endpoint.prefix:
            # Most likely the registry's answer: it will give it again, directly, or another link. If that
            # does not help, it is the proxy that cannot do it.
            if not self._open(route):
                return True  # the same link, in the hands of another reader
            route.resolved = False
            again = self._clock() < route.suspect_until
            route.suspect_until = self._clock() + LACKING_S
            self._avoid(route, LACKING_S if again else STALE_S, f"status {status}")
            return True
        if target.url != route.url:
            # The link has expired or gone bad: back to the registry for another one.
            if route.redirect is not None and route.redirect.url == target.url:
                route.redirect = None
            return True
        if status not in (401, 403):
            return False
        asked = [value for name, value in headers if name.lower() == "www-authenticate"]
        used = next((value for name, value in target.headers if name == "Authorization"), None)
        return self._registry.refused(route.url, asked, used)

    def failed(self, status: int | None, why: str, target: obdcore.Target) -> bool:
        """Takes note that a GET failed, with `status` if it was answered; whether there is another."""
        route = self._routes[target.endpoint]
        if route.redirect is not None and target.url == route.redirect.url:
            # Where it leads may be what is broken.
            route.redirect = None
        if route is self._routes[-1]:
            pass
        elif status is not None and status < 500 and status != 429:
            self._avoid(route, LACKING_S, why)
        else:
            route.endpoint.health.failed(why)
        if route is not self._routes[-1]:
            return True
        return any(self._open(other) and not other.endpoint.health.paused() for other in self._routes[:-1])

    def distrusted(self, target: obdcore.Target) -> None:
        """Takes note that bytes from `target` proved wrong."""
        if len(self._routes) > 1:
            self._avoid(self._routes[target.endpoint], LYING_S, "it sent wrong bytes")

    def mismatched(self, target: obdcore.Target, offset: int, length: int) -> None:
        """Takes note that bytes from `target` do not match the hash tree of the blob."""
        _log.warning(
            "%s: at %d: %d bytes that %s sent do not match the hash tree of the layer: thrown away",
            without_secrets(self._url),
            offset,
            length,
            self._routes[target.endpoint].endpoint.name,
        )
        self.distrusted(target)

    def describe(self) -> str:
        """Which credentials were tried, for messages."""
        return self._registry.describe_credentials(self._url)

    def _pick(self) -> int:
        """The endpoint to ask: the first that is well and not avoided, else the registry itself."""
        for number, route in enumerate(self._routes):
            if self._open(route) and route.endpoint.health.usable():
                return number
        return len(self._routes) - 1

    def _open(self, route: _Route) -> bool:
        return self._clock() >= route.avoided_until

    def _avoid(self, route: _Route, seconds: float, why: str) -> None:
        route.avoided_until = self._clock() + seconds
        # A link that went bad is nothing to worry about.
        level = logging.INFO if seconds <= STALE_S else logging.WARNING
        _log.log(
            level,
            "%s: not read from %s for %d s: %s",
            without_secrets(self._url),
            route.endpoint.name,
            seconds,
            why,
        )

    def _target(self, number: int, route: _Route) -> obdcore.Target:
        last = number == len(self._routes) - 1
        limit = None if last else SHARE_S
        endpoint = route.endpoint
        if isinstance(endpoint, P2p) and endpoint.prefix:
            self._resolve(route)
            link = route.link()
            headers = [] if link else self._headers(route.url)
            url = endpoint.prefixed(link.url if link else route.url)
            return obdcore.Target(url, headers, proxy="", endpoint=number, limit_s=limit, fresh_s=FRESH_S)
        proxy = endpoint.proxy if isinstance(endpoint, P2p) else None
        link = route.link()
        # A signed URL is its own credential, and another host has no business with ours.
        headers = self._headers(route.url) if link is None or link.same_origin else []
        url = link.url if link else route.url
        return obdcore.Target(
            url,
            headers,
            proxy=proxy,
            endpoint=number,
            limit_s=limit,
            fresh_s=FRESH_S,
            abroad=link is not None and link.abroad,
        )

    def _resolve(self, route: _Route) -> None:
        """Asks the registry where it would send us, to tell a P2P proxy. One request for all who wait."""
        with self._resolving:
            expired = route.redirect is not None and route.redirect.expired()
            if not route.resolved or expired:
                route.redirect = self._registry.resolve(route.url)
                route.resolved = True

    def _headers(self, url: str) -> Headers:
        value = self._registry.authorization(url)
        return [("Authorization", value)] if value else []
