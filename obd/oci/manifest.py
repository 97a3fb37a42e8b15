"""Manifests and indexes: read with checks, written in one form for one content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from obd.errors import ObdError
from obd.oci import fields
from obd.oci.descriptor import Descriptor
from obd.oci.limits import MAX_LAYERS, MAX_MANIFESTS
from obd.oci.media import INDEXES, MANIFESTS, OCI_INDEX, OCI_MANIFEST, SCHEMA1
from obd.oci.platform import Platform

_COMMON: Final = ("schemaVersion", "mediaType", "artifactType", "subject", "annotations")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its configuration and its layers, bottom first. `extra`: what we do not know."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    media_type: str = OCI_MANIFEST
    subject: Descriptor | None = None
    artifact_type: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        """Its bytes: the same for the same content."""
        content = {"config": self.config.to_json(), "layers": [layer.to_json() for layer in self.layers]}
        return _encode(self, content)

    def descriptor(self) -> Descriptor:
        """What names those bytes."""
        return Descriptor.of(self.encode(), self.media_type)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """All that it is made of, each once: the layers, then the configuration."""
        return tuple({blob.digest: blob for blob in (*self.layers, self.config)}.values())


@dataclass(frozen=True, slots=True)
class Index:
    """Several images or indexes under one name, or what refers to an image. `extra`: what we do not know."""

    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    media_type: str = OCI_INDEX
    subject: Descriptor | None = None
    artifact_type: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        """Its bytes: the same for the same content."""
        return _encode(self, {"manifests": [entry.to_json() for entry in self.manifests]})

    def descriptor(self) -> Descriptor:
        """What names those bytes."""
        return Descriptor.of(self.encode(), self.media_type)

    def choose(self, wanted: Platform, *prefer: str) -> Descriptor:
        """The entry for a platform, of several the first of an artifact type of `prefer`, or else the first.

        Of these types the earlier count more. Raises `ObdError` "not-found" that says which there are.
        """
        fitting = [entry for entry in self.manifests if entry.platform and entry.platform.fits(wanted)]
        if fitting:
            preferred = (entry for kind in prefer for entry in fitting if entry.artifact_type == kind)
            return next(preferred, fitting[0])
        # Attestations and such call themselves unknown/unknown.
        there = [str(entry.platform) for entry in self.manifests if entry.platform]
        known = [name for name in there if not name.startswith("unknown/")]
        if len(self.manifests) == 1 and not there:
            return self.manifests[0]
        have = ", ".join(dict.fromkeys(known)) or "none"
        raise ObdError("not-found", f"no image for {wanted}; there are: {have}"[:500])


def parse_manifest(data: bytes, media_type: str = "", where: str = "") -> Manifest | Index:
    """What `data` is: a manifest or an index, OCI's or Docker's (schema 2).

    `media_type` is what whoever gave the bytes calls them, "" for unknown; words that are not for manifests
    are ignored. `where` the bytes come from is for messages. Raises `ObdError`: "corrupt" for what is none,
    or could be taken for either; "limit" for one that is too large; "unsupported" for Docker's schema 1.
    """
    with fields.at(where):
        return _parse(data, media_type)


def _parse(data: bytes, media_type: str) -> Manifest | Index:
    found = fields.parse(data, "manifest")
    kind = _kind(found, media_type.partition(";")[0].strip())
    artifact_type = fields.text(found, "artifactType", "manifest")
    subject = found.get("subject")
    common: dict[str, Any] = {
        "annotations": fields.texts(found, "annotations", "manifest"),
        "media_type": kind,
        "subject": None if subject is None else Descriptor.from_json(subject, "subject"),
        "artifact_type": artifact_type,
    }
    if kind in INDEXES:
        entries = fields.items(found, "manifests", "manifest", MAX_MANIFESTS)
        manifests = tuple(Descriptor.from_json(entry, f"manifests[{at}]") for at, entry in enumerate(entries))
        return Index(manifests, **common, extra=fields.rest(found, (*_COMMON, "manifests")))
    blobs = fields.items(found, "layers", "manifest", MAX_LAYERS)
    layers = tuple(Descriptor.from_json(layer, f"layers[{at}]") for at, layer in enumerate(blobs))
    config = Descriptor.from_json(found.get("config"), "config")
    return Manifest(config, layers, **common, extra=fields.rest(found, (*_COMMON, "config", "layers")))


def _kind(found: Mapping[str, Any], outside: str) -> str:
    """The media type: what a document says itself, else what was said of it, else what it looks like."""
    inside = fields.text(found, "mediaType", "manifest")
    version = found.get("schemaVersion")
    if isinstance(version, bool):
        version = None
    if inside in SCHEMA1 or outside in SCHEMA1 or version == 1:
        raise ObdError("unsupported", "a manifest of Docker's schema 1, which registries gave up in 2019")
    if "manifests" in found and ("layers" in found or "config" in found):
        # Readers would differ in what it is, and so in what they run.
        fields.corrupt("both a manifest and an index")
    known = (*MANIFESTS, *INDEXES)
    seems = INDEXES if "manifests" in found else MANIFESTS
    if inside and inside not in known:
        raise ObdError("unsupported", f"not an image: its media type is {fields.shown(inside)}")
    if version != 2:
        fields.corrupt(f"not a manifest: its schemaVersion is {fields.shown(version)}")
    kind = inside or (outside if outside in known else seems[0])
    if kind not in seems or (outside in known and outside != kind):
        fields.corrupt(f"a manifest of another type than {kind}")
    return kind


def _encode(manifest: Manifest | Index, content: dict[str, Any]) -> bytes:
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": manifest.media_type}
    if manifest.artifact_type:
        document["artifactType"] = manifest.artifact_type
    document |= content
    document |= {key: manifest.extra[key] for key in sorted(manifest.extra)}
    if manifest.subject:
        document["subject"] = manifest.subject.to_json()
    if manifest.annotations:
        document["annotations"] = {key: manifest.annotations[key] for key in sorted(manifest.annotations)}
    return fields.encode(document)
