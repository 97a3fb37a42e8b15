"""Registries: name, connection, certificate, credentials, one ranged GET of a layer; all within a time."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from obd.config import ServiceConfig, load_image
from obd.doctor import Finding
from obd.errors import kind_of, line_of
from obd.locate import locate
from obd.secret import without_secrets
from obd.service import Service

# For all of it, however many registries there are: they are asked at once.
LIMIT_S: Final = 25.0
# So many hosts are asked.
MAX_ENDPOINTS: Final = 32
# Tokens and certificates are judged by the clock.
MAX_SKEW_S: Final = 60.0

_FIXES: Final = {
    "denied": "check the credentials (credentialConfig), or the certificate's authority (certConfig.caFile)",
    "not-found": "check repoBlobUrl and digest, or push the layer again",
    "timed-out": "check network, proxy and firewall",
    "io": "check network, proxy and firewall, and whether the registry runs",
}


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """A host to ask; `blob` is a layer to read from there, of `size` bytes, "" for none."""

    base: str
    blob: str = ""
    size: int = 0


def check_registries(images: list[str], config: ServiceConfig) -> Iterator[Finding]:
    """The registries of the images' remote layers, and those, with mirrors, of the service configuration."""
    endpoints = list(_endpoints(images, config).values())
    if not endpoints:
        what = "none is named by the service configuration, and no image was given"
        yield Finding("ok", "registry", what)
        return
    if len(endpoints) > MAX_ENDPOINTS:
        what = f"only the first {MAX_ENDPOINTS} of {len(endpoints)} are asked"
        yield Finding("warning", "registry", what)
    service = Service(config)
    found: dict[str, list[Finding]] = {}

    def ask(endpoint: _Endpoint) -> None:
        found[endpoint.base] = list(_checked(lambda: _ask(endpoint, service)))

    end = time.monotonic() + LIMIT_S
    threads = []
    for endpoint in endpoints[:MAX_ENDPOINTS]:
        # Not waited for when the time is over: one of them may hang in the resolver.
        threads.append(threading.Thread(target=ask, args=(endpoint,), daemon=True))
        threads[-1].start()
    for thread, endpoint in zip(threads, endpoints, strict=False):
        thread.join(max(0.0, end - time.monotonic()))
        late = Finding(
            "problem", "registry", f"{endpoint.base}: no answer in {LIMIT_S:g} s", _FIXES["timed-out"]
        )
        yield from found.get(endpoint.base, [late])


def _endpoints(images: list[str], config: ServiceConfig) -> dict[str, _Endpoint]:
    endpoints: dict[str, _Endpoint] = {}
    for path in images:
        with suppress(OSError):  # told of elsewhere
            for part in (part for source in locate(load_image(path)) for part in source.parts):
                if part.url and not part.local:
                    base = _base(part.url)
                    endpoints.setdefault(base, _Endpoint(base, part.url, part.lower.size_bytes))
    for host, registry in config.registries.items():
        if not any(urlsplit(base).netloc == host for base in endpoints):
            endpoints[f"https://{host}"] = _Endpoint(f"https://{host}")
        for mirror in registry.mirrors:
            endpoints.setdefault(_base(mirror), _Endpoint(_base(mirror)))
    return endpoints


def _base(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _checked(work: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from work()
    except Exception as error:
        yield Finding("problem", "registry", line_of(error))


def _ask(endpoint: _Endpoint, service: Service) -> Iterator[Finding]:
    """Name, connection, answer, layer: as far as it goes."""
    base = endpoint.base
    if urlsplit(base).scheme not in getproxies() and (failure := _connect(base)):
        yield failure
        return
    from obd.session import send

    registry = service.registry()
    try:
        with send(registry.session, "GET", f"{base}/v2/", headers={}) as response:
            status, date = response.status_code, response.headers.get("Date", "")
    except OSError as error:
        yield Finding("problem", "registry", line_of(error), _FIXES.get(kind_of(error), ""))
        return
    yield from _skew(base, date)
    if not endpoint.blob:
        if status in (200, 401, 403):
            yield Finding("ok", "registry", f"{base}: answers")
        else:
            fix = "check the address: a registry answers there with 200 or 401"
            yield Finding("warning", "registry", f"{base}/v2/: status {status}", fix)
        return
    try:
        blob = registry.open_blob(endpoint.blob, size=endpoint.size)
        data = blob.read_at(0, min(blob.size, 512))
    except OSError as error:
        yield Finding("problem", "registry", line_of(error), _FIXES.get(kind_of(error), ""))
        return
    who = registry.describe_credentials(endpoint.blob)
    what = f"{base}: gives {len(data)} bytes of {without_secrets(endpoint.blob).rpartition('/')[2]} ({who})"
    yield Finding("ok", "registry", what)


def _connect(base: str) -> Finding | None:
    """Looks the name up and connects."""
    parts = urlsplit(base)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        what = f"{base}: the name {host} is not known: {error.strerror}"
        return Finding("problem", "registry", what, "check the name, /etc/resolv.conf and /etc/hosts")
    try:
        socket.create_connection((host, port), timeout=5.0).close()
    except OSError as error:
        what = f"{base}: no connection to {host} port {port}: {error.strerror or error}"
        return Finding("problem", "registry", what, _FIXES["io"])
    return None


def _skew(base: str, date: str) -> Iterator[Finding]:
    with suppress(ValueError, TypeError):
        skew_s = time.time() - parsedate_to_datetime(date).timestamp()
        if abs(skew_s) > MAX_SKEW_S:
            what = f"{'ahead of' if skew_s > 0 else 'behind'} that of {base} by {abs(skew_s):.0f} s"
            yield Finding("warning", "clock", what, "timedatectl set-ntp true")
