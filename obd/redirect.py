"""Where a registry sends a reader, and until when that link is good."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, urldefrag, urljoin, urlsplit

from obd.abroad import is_abroad, may_lead

# A link is given up this long before its end, so that a read that begins in time also ends in time.
MARGIN_S: Final = 30.0
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True)
class Redirect:
    """The target of a redirect. `until` is a time since the epoch, None if the link does not say.

    `same_origin`: scheme, host and port are those of the blob's own URL. `abroad`: only the server has named
    its host.
    """

    url: str = field(repr=False)
    same_origin: bool
    until: float | None
    abroad: bool = False

    def expired(self) -> bool:
        """Whether another link should be asked for."""
        return self.until is not None and time.time() >= self.until


def origin(url: str) -> str:
    """Scheme, host and port of a URL, comparable."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or _DEFAULT_PORTS.get(parts.scheme)}"


def follow(url: str, location: str, blob_url: str) -> Redirect | None:
    """The target of a redirect answered to `url`; None if it is no http(s) URL, or not for it to name."""
    location = location.strip(" ")  # urlsplit passes over what urljoin keeps
    try:
        target = urldefrag(urljoin(url, location)).url
        parts = urlsplit(target)
        usable = bool(location) and parts.scheme in _DEFAULT_PORTS and bool(parts.hostname)
        if not usable or not target.isprintable() or not may_lead(blob_url, target):
            return None
        target = parts.scheme + target[len(parts.scheme) :]  # in small letters, as those want it who connect
        return Redirect(
            target,
            origin(target) == origin(blob_url),
            _end(dict(parse_qsl(parts.query)), time.time()),
            is_abroad(blob_url, target),
        )
    except (ValueError, OverflowError):  # a port or an address that is none; a life of hundreds of digits
        return None


def _end(query: Mapping[str, str], now: float) -> float | None:
    """When a signed URL expires, by the parameters of the common object stores."""
    ends: list[float] = []
    lower = {name.lower(): value for name, value in query.items()}
    for vendor in ("x-amz", "x-goog", "x-oss"):
        start, life = _moment(lower.get(f"{vendor}-date", "")), lower.get(f"{vendor}-expires", "")
        if start is not None and life.isdecimal():
            ends.append(start + int(life))
    if lower.get("expires", "").isdecimal():
        ends.append(float(lower["expires"]))
    if (end := _moment(lower.get("se", ""))) is not None:
        ends.append(end)
    # A link that seems expired on arrival comes from a clock that is not ours: try it, and see.
    ends = [end for end in ends if end > now]
    return min(ends) - min(MARGIN_S, (min(ends) - now) / 2) if ends else None


def _moment(text: str) -> float | None:
    # Most links have few of these fields, and strptime takes its time to refuse nothing.
    for form in ("%Y%m%dT%H%M%SZ", "%Y-%m-%dT%H:%M:%SZ") if text else ():
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    return None
