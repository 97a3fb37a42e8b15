"""The image that a container is made of: what opens its device, and what it says of its process."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from obd.errors import ObdError

if TYPE_CHECKING:
    from obd.commit import Base
    from obd.oci.platform import Platform
    from obd.reference import Reference
    from obd.service import Service

_HINT: Final = "obd convert makes an image that has them of it"


@dataclass(frozen=True, slots=True)
class RunImage:
    """`name`: as the user gave it. `digest`: of its manifest, "" of a configuration file.

    `document`: an image configuration without an upper. `settings`: the `config` of the OCI image
    configuration. `plain_http`: how its registry is spoken to.
    """

    name: str
    digest: str
    document: dict[str, Any]
    settings: dict[str, Any]
    plain_http: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it is kept with a container."""
        return asdict(self)

    def base(self, service: Service, wanted: Platform) -> Base | None:
        """The image in its registry, for a commit to extend; None for a configuration file."""
        if not self.digest:
            return None
        from obd.commit import open_base
        from obd.oci.registry_source import RegistrySource

        place = replace(_reference(self.name, self.plain_http), digest=self.digest)
        return open_base(RegistrySource(service.registry(), place), wanted)


def find_image(word: str, service: Service, wanted: Platform, *, plain_http: bool) -> RunImage:
    """The image that `word` names: a configuration file, or an image of a registry. Raises `OSError`."""
    if os.path.isfile(word):
        return _of_file(word)
    from obd import manifest

    place = _chosen(_reference(word, plain_http), service, wanted)
    image = RunImage(word, place.digest, {}, {}, plain_http)
    try:
        document = manifest.document_of(manifest.image_config(service.registry(), place, wanted))
    except ObdError as error:
        if error.kind != "unsupported":
            raise
        raise ObdError("unsupported", f"{error.what} ({_HINT})", error.file) from None
    base = image.base(service, wanted)
    settings = base.config.get("config") if base else None
    return replace(image, document=document, settings=settings if isinstance(settings, dict) else {})


def _reference(word: str, plain_http: bool) -> Reference:
    from obd.reference import parse_reference

    place = parse_reference(word, plain_http=plain_http)
    if place is None:
        what = "neither an image configuration nor [http[s]://]REGISTRY/REPOSITORY[:TAG][@DIGEST]"
        raise ObdError("invalid", what, word)
    return place


def _chosen(place: Reference, service: Service, wanted: Platform) -> Reference:
    """The same image by the digest of its manifest, of an index the one for a platform."""
    from obd.oci import fields
    from obd.oci.layers import ARTIFACTS
    from obd.oci.manifest import Index, parse_manifest
    from obd.oci.registry_source import RegistrySource

    with RegistrySource(service.registry(), place) as source:
        root, data = source.root()
        found = parse_manifest(data, root.media_type, source.name)
        if isinstance(found, Index):
            with fields.at(source.name):
                root = found.choose(wanted, *ARTIFACTS)
    return replace(place, digest=root.digest)


def _of_file(path: str) -> RunImage:
    from obd.config import load_image
    from obd.manifest import document_of

    config = load_image(path)
    if config.writable:
        raise ObdError("unsupported", "it has an upper of its own (obd commit makes a layer of it)", path)
    here = os.path.dirname(os.path.abspath(path))
    document = document_of(config)
    for lower in document["lowers"]:
        for key in ("file", "dir", "targetFile", "gzipIndex"):
            if key in lower:
                lower[key] = os.path.abspath(lower[key])
    if config.acceleration_layer:
        document["accelerationLayer"] = True
    return RunImage(os.path.join(here, os.path.basename(path)), "", document, {})
