"""Opening a place with images by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obd.oci.name import Local, parse_name

if TYPE_CHECKING:
    from obd.oci.protocols import ImageDestination, ImageSource
    from obd.registry import Registry
    from obd.service import Service


def open_source(
    name: str, service: Service, *, plain_http: bool = False, registry: Registry | None = None
) -> ImageSource:
    """The image that `name` names, to be read. Forms of names: `obd.oci.name.FORMS`.

    `registry`: the dialogue to use in place of the service's. Raises `OSError`: "invalid" for what is no
    name, and what the place has to say; a registry is asked nothing yet.
    """
    place = parse_name(name, plain_http=plain_http)
    if isinstance(place, Local):
        return _local_source(place)
    from obd.oci.registry_source import RegistrySource

    return RegistrySource(registry or service.registry(), place)


def open_destination(
    name: str, service: Service, *, plain_http: bool = False, registry: Registry | None = None
) -> ImageDestination:
    """The place that `name` names, to be written to. As `open_source`; "exists" for a file that is there."""
    place = parse_name(name, plain_http=plain_http)
    if isinstance(place, Local):
        return _local_destination(place)
    from obd.oci.registry_destination import RegistryDestination

    return RegistryDestination(registry or service.registry(), place)


def _local_source(place: Local) -> ImageSource:
    from obd.oci.layout_source import LayoutSource

    if place.kind == "oci":
        from obd.oci.store import Directory

        return LayoutSource(Directory(place.path), place.tag)
    from obd.oci.tar import Tar

    store = Tar(place.path)
    if place.kind == "oci-archive":
        return LayoutSource(store, place.tag)
    from obd.oci.docker_archive import open_docker_archive

    return open_docker_archive(store, place.tag)


def _local_destination(place: Local) -> ImageDestination:
    if place.kind == "oci":
        from obd.oci.layout_destination import LayoutDestination

        return LayoutDestination(place.path, place.tag)
    if place.kind == "oci-archive":
        from obd.oci.archive_destination import ArchiveDestination

        return ArchiveDestination(place.path, place.tag)
    from obd.oci.docker_archive import DockerArchiveDestination

    return DockerArchiveDestination(place.path, place.tag)
