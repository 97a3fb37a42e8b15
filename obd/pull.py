"""Which layers `obd pull` has to bring to this machine, and where each goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obd.config import Lower
from obd.downloads import copy_of
from obd.errors import ObdError
from obd.locate import Source, locate

if TYPE_CHECKING:
    from cache.copy import Layer
    from obd.config import ImageConfig
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
    for part in (part for source in locate(config) for part in source.parts):
        if part.local:
            local.append(part.path)
        elif part.nowhere:
            raise ObdError("not-found", part.nowhere, config.file)
        else:
            remote.append(copy_of(part, service.blob(part.url, part.lower), service))
    return Wanted(local, remote)


def layers_of_image(image: Reference, service: Service, platform: Platform) -> Wanted:
    """The layers of an image in a registry, all of which go into the cache. Raises `OSError`.

    Of a turboOCI layer that is its target: metadata is small, and has no place in the cache.
    """
    from obd.manifest import image_layers, lower_of
    from obd.oci.layers import target_of

    remote = []
    for position, layer in enumerate(image_layers(service.registry(), image, platform)):
        target = target_of(layer.annotations)[0]
        lower = Lower(digest=target) if target else lower_of(layer)
        part = Source(position, lower, "", f"{image.url}/blobs/{lower.digest}", is_target=bool(target))
        remote.append(copy_of(part, service.blob(part.url, lower), service))
    return Wanted([], remote)
