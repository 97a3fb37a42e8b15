"""The places that a registry's blobs can be had from, and whether each is worth asking just now."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from obd.secret import without_secrets

_log: Final = logging.getLogger("overlaybd.registry")

# Seconds that an endpoint is left alone after a failure; doubles with each further one up to the longest.
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
# Then one request tries it. It counts as well again if nothing bad is heard for so long, which is more than
# the core's patience with a silent server.
TRIAL_S: Final = 5.0


class Health:
    """Whether to ask an endpoint, as all blobs of the process have found it. Safe for any thread.

    `name` is for the log. `clock` tells seconds and never goes back.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._until = 0.0
        self._on_trial = False

    def usable(self) -> bool:
        """Whether to send a request there. After a pause this is true once, for the one who tries it."""
        with self._lock:
            if not self._failures:
                return True
            now = self._clock()
            if now < self._until:
                return False
            if self._on_trial:
                self._failures, self._on_trial = 0, False
                _log.info("%s answers again", self._name)
            else:
                self._on_trial, self._until = True, now + TRIAL_S
            return True

    def paused(self) -> bool:
        """Whether the endpoint is put aside, or on trial."""
        with self._lock:
            return bool(self._failures) and self._clock() < self._until

    def failed(self, why: str) -> None:
        """Puts the endpoint aside for a while; `why` is for the log."""
        with self._lock:
            now = self._clock()
            if self._failures and now < self._until and not self._on_trial:
                return  # a request that was under way when this began
            self._failures += 1
            # The exponent is bounded so that no number grows for as long as a mirror is down.
            pause = min(FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 16), LONGEST_PAUSE_S)
            self._until, self._on_trial = now + pause, False
            first = self._failures == 1
        if first:
            _log.warning("%s is not asked for now: %s", self._name, why)


class Endpoint:
    """The registry itself, one of its mirrors, or a P2P proxy before it."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name: Final = name
        self.health: Final = Health(name, clock)

    def url(self, blob_url: str) -> str:
        """The blob's URL at this endpoint."""
        return blob_url


class Mirror(Endpoint):
    """Another server with the same blobs: `http[s]://HOST[:PORT][/v2/PROJECT]`."""

    def __init__(self, base: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(f"mirror {without_secrets(base)}", clock)
        self._base = base.rstrip("/")

    def url(self, blob_url: str) -> str:
        """As `Endpoint.url`. A base that has `/v2` in its path says where the repositories are."""
        path = urlsplit(blob_url).path
        if "v2" in urlsplit(self._base).path.split("/"):
            path = path.removeprefix("/v2")
        return self._base + path


class P2p(Endpoint):
    """A proxy of this host or site that fetches from peers.

    Mode "prefix": its address goes before the whole URL. Mode "proxy": it is an HTTP proxy.
    """

    def __init__(self, address: str, mode: str, clock: Callable[[], float] = time.monotonic) -> None:
        if "://" not in address:
            address = f"http://{address}"
        super().__init__(f"P2P proxy {without_secrets(address)}", clock)
        self.prefix: Final = mode == "prefix"
        self._address = address.rstrip("/")

    def prefixed(self, url: str) -> str:
        """The URL to ask the proxy for; mode "prefix"."""
        return f"{self._address}/{url}"

    @property
    def proxy(self) -> str:
        """The proxy as an HTTP client takes it; mode "proxy"."""
        parts = urlsplit(self._address)
        return f"{parts.scheme}://{parts.netloc}"
