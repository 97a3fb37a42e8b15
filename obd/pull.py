"""Which layers `obd pull` has to bring to this machine, and where each goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obd.errors import ObdError
from obd.locate import locate
from obd.secret import without_secrets

if TYPE_CHECKING:
    from cache.copy import Layer
    from obd.config import ImageConfig, Lower
    from obd.oci.platform import Platform
    from obd.reference import Reference
    from obd.service import Service


@dataclass(frozen=True, slots=True)
class Wanted:
    """The layers of an image: those that are files of this machine already, and those that are not."""

    local: list[str]
    remote: list[Layer]


def layers_of_config(config: ImageConfig, service: Service) -> Wanted:
    """The layers of an image configuration; a remote one goes to its `dir`, or without one into the cache.

    Raises `OSError`.
    """
    local, remote = [], []
    for source in locate(config):
        if source.local:
            local.append(source.path)
        elif not source.url:
            where = source.lower.dir or source.lower.file
            raise ObdError(
                "not-found", f"layer {source.position} is in none of its places ({where})", config.file
            )
        else:
            remote.append(_layer(source.position, source.url, source.lower, service))
    return Wanted(local, remote)


def layers_of_image(image: Reference, service: Service, platform: Platform) -> Wanted:
    """The layers of an image in a registry, all of which go into the cache. Raises `OSError`."""
    from obd.manifest import image_layers

    lowers = image_layers(service.registry(), image, platform)
    blobs = f"{image.url}/blobs"
    remote = [_layer(at, f"{blobs}/{lower.digest}", lower, service) for at, lower in enumerate(lowers)]
    return Wanted([], remote)


def _layer(position: int, url: str, lower: Lower, service: Service) -> Layer:
    from cache.copy import Layer

    blob = service.blob(url, lower)
    shown, is_media = without_secrets(url), service.is_media(lower)
    return Layer(position, lower.dir, lower.digest, shown, blob, is_media)
