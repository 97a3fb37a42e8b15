"""Platforms: what machine an image is for, and which of several is wanted."""

from __future__ import annotations

import platform as machine
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from obd.errors import ObdError
from obd.oci import fields

_KNOWN: Final = ("os", "architecture", "variant")
_MACHINES: Final = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "i686": "386",
    "loongarch64": "loong64",
}
# Of architectures for which it need not be said.
_USUAL_VARIANTS: Final = {"arm64": "v8", "arm": "v7"}


@dataclass(frozen=True, slots=True)
class Platform:
    """`os` and `architecture` as Go names them. `extra` is what is said besides."""

    os: str
    architecture: str
    variant: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, value: object, where: str) -> Platform:
        """The platform in a descriptor. Raises `ObdError` "corrupt"."""
        found = fields.object_of(value, where)
        os, architecture, variant = (fields.text(found, name, where) for name in _KNOWN)
        return cls(os, architecture, variant, fields.rest(found, _KNOWN))

    @classmethod
    def parse(cls, word: str) -> Platform:
        """`OS/ARCHITECTURE[/VARIANT]`. Raises `ObdError` "invalid"."""
        parts = word.split("/")
        if not 2 <= len(parts) <= 3 or not all(parts):
            raise ObdError(
                "invalid", f"{fields.shown(word)} is no platform: must be OS/ARCHITECTURE[/VARIANT]"
            )
        return cls(parts[0], parts[1], parts[2] if len(parts) > 2 else "")

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        found: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        found |= {key: self.extra[key] for key in sorted(self.extra)}
        return found | ({"variant": self.variant} if self.variant else {})

    def fits(self, wanted: Platform) -> bool:
        """Whether an image for this platform is one for `wanted`; without a variant any is."""
        if (self.os, self.architecture) != (wanted.os, wanted.architecture):
            return False
        usual = _USUAL_VARIANTS.get(self.architecture, "")
        return not wanted.variant or (self.variant or usual) == wanted.variant

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def own_platform() -> Platform:
    """The platform of this machine."""
    name = machine.machine()
    return Platform("linux", _MACHINES.get(name, name))
