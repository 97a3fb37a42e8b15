"""Requests to registries that are asked again when what failed may pass."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from obd.errors import ObdError, kind_of
from obd.secret import without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obd.registry import Registry

ATTEMPTS: Final = 4
# The pause after the first failure, which doubles with each, and the longest that a registry may ask for.
PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 15.0
# Of the longest number that is believed: below the sizes that `obd.oci.limits` has.
_DIGITS: Final = 16
# What a registry says when it has too much to do, or is being restarted.
_PASSING: Final = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of which all is here. Names of `headers` are in no particular case, so use `header`."""

    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        """A header, "" if it was not sent."""
        return self.headers.get(name, "")


def ask(
    registry: Registry,
    method: str,
    url: str,
    *,
    action: str,
    headers: dict[str, str] | None = None,
    data: Any = None,
    attempts: int = ATTEMPTS,
    mount_from: str = "",
    timeouts_s: tuple[float, float] | None = None,
    anonymous: bool = False,
    abroad: bool = False,
) -> Answer:
    """One request with credentials and its answer of any status; asked again if that may help.

    For requests that may be carried out twice; others want `attempts` 1. `mount_from`,
    `timeouts_s`, `anonymous` and `abroad` as for `Registry.request`. Raises `ObdError` as `Registry.request`.
    """
    from obd.session import read_body

    for attempt in range(1, attempts + 1):
        try:
            response = registry.request(
                method,
                url,
                action=action,
                headers=headers,
                data=data,
                mount_from=mount_from,
                timeouts_s=timeouts_s,
                anonymous=anonymous,
                abroad=abroad,
            )
            # Read to its end even if it is nothing: then the connection is used again.
            body = read_body(response)
        except ObdError as error:
            if attempt == attempts or not passes(error):
                raise
            time.sleep(pause_s(attempt))
            continue
        if response.status_code not in _PASSING or attempt == attempts:
            break
        time.sleep(pause_s(attempt, response.headers.get("Retry-After", "")))
    return Answer(response.status_code, response.url, response.headers, body)


def number(text: str) -> int | None:
    """A number in a header; None for what is none, or none that could count bytes."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else None


def passes(error: OSError) -> bool:
    """Whether what failed may work when it is tried again."""
    return kind_of(error) in ("io", "timed-out")


def pause_s(attempt: int, retry_after: str = "") -> float:
    """Seconds to wait after the failure with that number, from 1; at least what the registry asks for."""
    asked = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else 0.0
    return min(max(PAUSE_S * 2.0 ** (attempt - 1), asked), LONGEST_PAUSE_S)


def refusal(method: str, answer: Answer) -> ObdError:
    """The error that an answer is."""
    status = answer.status
    kind = "denied" if status in (401, 403) else "not-found" if status == 404 else "io"
    if 400 <= status < 500 and kind == "io" and status not in _PASSING:
        kind = "invalid"
    return ObdError(kind, f"{method} {without_secrets(answer.url)}: status {status}{_reason(answer.body)}")


def _reason(body: bytes) -> str:
    """The registry's own words from the body of an error."""
    try:
        first = json.loads(body)["errors"][0]
        return " ".join(f": {first['code']}: {first.get('message', '')}"[:200].split())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
