"""What a registry asks for: `WWW-Authenticate` parsed by its grammar (RFC 9110, 11.6.1)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

# No registry sends more; the rest of a longer header is not looked at.
MAX_HEADER_CHARACTERS: Final = 16 << 10

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
# One element of the comma separated list: commas inside quotes do not separate.
_ELEMENT: Final = re.compile(rf"(?:{_QUOTED}|[^,\"])+", re.DOTALL)
_PARAMETER: Final = re.compile(rf"({_TOKEN})\s*=\s*({_TOKEN}|{_QUOTED})\s*", re.DOTALL)
_SCHEME: Final = re.compile(rf"({_TOKEN})(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Challenge:
    """One way to authenticate: scheme and parameter names in lower case, values as sent."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str:
        """The parameter `name`, "" if it was not sent."""
        return self.parameters.get(name, "")


def parse(headers: Iterable[str]) -> list[Challenge]:
    """All challenges of all `WWW-Authenticate` headers of an answer; what is malformed is left out."""
    found: list[Challenge] = []
    for header in headers:
        for element in _ELEMENT.findall(header[:MAX_HEADER_CHARACTERS]):
            text = element.strip()
            if parameter := _PARAMETER.fullmatch(text):
                if found:
                    _add(found[-1], parameter)
            elif scheme := _SCHEME.fullmatch(text):
                found.append(Challenge(scheme[1].lower()))
                if first := _PARAMETER.fullmatch(scheme[2] or ""):
                    _add(found[-1], first)
    return found


def choose(challenges: Iterable[Challenge]) -> Challenge | None:
    """The challenge to answer: Bearer with a realm before Basic; None if there is neither."""
    usable = [c for c in challenges if c.scheme == "basic" or (c.scheme == "bearer" and c.get("realm"))]
    return min(usable, key=lambda c: c.scheme != "bearer", default=None)


def _add(challenge: Challenge, parameter: re.Match[str]) -> None:
    value = parameter[2]
    if value.startswith('"'):
        value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
    challenge.parameters.setdefault(parameter[1].lower(), value)
