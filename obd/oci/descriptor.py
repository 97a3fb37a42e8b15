"""A descriptor: what names a blob or a manifest, with its size and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from obd.oci import fields
from obd.oci.digest import digest_of
from obd.oci.platform import Platform

_KNOWN: Final = ("mediaType", "artifactType", "digest", "size", "annotations", "platform")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """`size` in bytes. `extra`: what else a document said (`urls`, `data`, and what is not known here)."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = field(default=None, hash=False)
    artifact_type: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, value: object, where: str = "descriptor") -> Descriptor:
        """The descriptor in a document; `where` names its place in messages. Raises `ObdError` "corrupt"."""
        found = fields.object_of(value, where)
        platform = found.get("platform")
        return cls(
            fields.text(found, "mediaType", where),
            fields.digest(found, where),
            fields.size(found, where),
            fields.texts(found, "annotations", where),
            None if platform is None else Platform.from_json(platform, f"{where}.platform"),
            fields.text(found, "artifactType", where),
            fields.rest(found, _KNOWN),
        )

    @classmethod
    def of(cls, data: bytes, media_type: str) -> Descriptor:
        """What names `data`."""
        return cls(media_type, digest_of(data), len(data))

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it, always the same."""
        found: dict[str, Any] = {"mediaType": self.media_type}
        if self.artifact_type:
            found["artifactType"] = self.artifact_type
        found |= {"digest": self.digest, "size": self.size}
        found |= {key: self.extra[key] for key in sorted(self.extra)}
        if self.annotations:
            found["annotations"] = {key: self.annotations[key] for key in sorted(self.annotations)}
        return found | ({"platform": self.platform.to_json()} if self.platform else {})
