"""The destination as a conversion uses it: what is there already, what can be taken from a neighbour."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

import obdcore
from obd.convert.record import Made
from obd.credentials.document import repository
from obd.oci.descriptor import Descriptor
from obd.oci.layout_source import LayoutSource
from obd.oci.media import OCI_LAYER
from obd.oci.name import Local, parse_name
from obd.oci.registry_destination import RegistryDestination
from obd.oci.registry_source import RegistrySource
from obd.oci.store import Directory
from obd.reference import Reference

if TYPE_CHECKING:
    from obd.oci.protocols import ImageDestination, ImageSource, Progress
    from obd.registry import Registry

# What of finished layers is read again while others are put on top of them.
_CACHE_BYTES = 1 << 30


class Target:
    """`word` is the name of the destination, by which `destination` was opened, `registry` for its layers."""

    def __init__(
        self,
        destination: ImageDestination,
        word: str,
        registry: Registry,
        *,
        plain_http: bool = False,
    ) -> None:
        self.destination = destination
        self._place = parse_name(word, plain_http=plain_http)
        self._registry = registry
        self._cache: obdcore.ChunkCache | None = None
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """Its repository as records name it; "" for what is no registry."""
        return self._place.url if isinstance(self._place, Reference) else ""

    def has(self, made: Made) -> bool:
        """Whether a layer is there, or is now because a neighbouring repository had it."""
        blob = _blob(made)
        if self.destination.has_blob(blob):
            return True
        return any(self._mount(blob, place) for place in made.places if place != self.place)

    def _mount(self, blob: Descriptor, place: str) -> bool:
        found = self.destination
        if not isinstance(found, RegistryDestination) or _host(place) != _host(self.place):
            return False
        return found.mount_from(blob, repository(place))

    def put(self, made: Made, path: str, told: Progress) -> None:
        """Puts a finished layer there."""
        self.destination.put_blob(_blob(made), path, told)

    def put_original(self, source: ImageSource, layer: Descriptor, path: str, told: Progress) -> None:
        """Has a layer of the source, which is in the file `path` too, in the target as it is."""
        there = self.destination.has_blob(layer) or self.destination.mount_blob(layer, source)
        if not there:
            self.destination.put_blob(layer, path, told)

    def open(self, made: Made, path: str) -> BinaryIO:
        """A finished layer as a stream: of the file `path`, without one out of the target."""
        if path:
            return open(path, "rb")
        if isinstance(self._place, Reference):
            return RegistrySource(self._registry, self._place).blob(_blob(made))
        return LayoutSource(Directory(self._place.path), "").blob(_blob(made))

    def lower(self, made: Made, directory: str) -> str | obdcore.RemoteBlob | None:
        """A layer that is there, to put others on top of it; None if it cannot be read in place.

        `directory`: where to keep what is read of it.
        """
        if isinstance(self._place, Local):
            if self._place.kind != "oci":
                return None
            algorithm, _, digits = made.digest.partition(":")
            path = os.path.join(self._place.path, "blobs", algorithm, digits)
            return path if os.path.exists(path) else None
        with self._lock:
            if self._cache is None:
                self._cache = obdcore.ChunkCache(os.path.join(directory, "cache"), _CACHE_BYTES)
        url = f"{self._place.url}/blobs/{made.digest}"
        return self._registry.open_blob(url, size=made.size, cache=self._cache)


def _host(place: str) -> str:
    return urlsplit(place).netloc


def _blob(made: Made) -> Descriptor:
    return Descriptor(OCI_LAYER, made.digest, made.size)
