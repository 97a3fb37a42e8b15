"""A repository of a registry as a destination."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from typing import TYPE_CHECKING, Final

from obd.errors import ObdError
from obd.oci.body import FileBody, StreamBody
from obd.oci.protocols import ImageDestination
from obd.oci.registry_source import RegistrySource
from obd.oci.repository import Repository
from obd.oci.upload import PART_BYTES, STREAM_PART_BYTES, Upload, mount
from obd.secret import without_secrets

if TYPE_CHECKING:
    from obd.oci.descriptor import Descriptor
    from obd.oci.protocols import Content, ImageSource, Progress
    from obd.reference import Reference
    from obd.registry import Registry


class RegistryDestination(ImageDestination):
    """The repository of `image`, whose tag is "latest" unless it has one, or a digest instead.

    `part_bytes` is what one request carries at most of a blob. Besides what is said of `ImageDestination`,
    methods raise `ObdError` as those of `Repository`.
    """

    def __init__(self, registry: Registry, image: Reference, *, part_bytes: int = PART_BYTES) -> None:
        self.repository: Final = Repository(registry, image.url)
        self.name = without_secrets(image.url)
        self.tag = image.tag or ("" if image.digest else "latest")
        self._part_bytes: Final = part_bytes
        self._lock: Final = threading.Lock()
        # Uploads that began where the registry would not mount a blob.
        self._begun: Final[dict[str, str]] = {}

    def has_blob(self, descriptor: Descriptor) -> bool:
        """As `ImageDestination.has_blob`."""
        return self.repository.blob_size(descriptor.digest) in (descriptor.size, -1)

    def put_blob(self, descriptor: Descriptor, content: Content, progress: Progress | None = None) -> None:
        """As `ImageDestination.put_blob`; size and digest are checked by the registry."""
        with self._lock:
            location = self._begun.pop(descriptor.digest, "")
        if not location and self.has_blob(descriptor):
            if progress:
                progress(descriptor.size, descriptor.size)
            return
        with contextlib.ExitStack() as stack:
            body, part_bytes = self._body(descriptor, content, stack)
            Upload(
                self.repository,
                descriptor,
                body,
                part_bytes=part_bytes,
                progress=progress,
                location=location,
            ).run()

    def _body(
        self, descriptor: Descriptor, content: Content, stack: contextlib.ExitStack
    ) -> tuple[FileBody | StreamBody, int]:
        """The content as it is sent, and the bytes of its parts."""
        if isinstance(content, bytes):
            return FileBody(io.BytesIO(content)), self._part_bytes
        if not isinstance(content, str):
            return StreamBody(content, descriptor.size), min(self._part_bytes, STREAM_PART_BYTES)
        file = stack.enter_context(open(content, "rb"))  # noqa: SIM115 - the stack closes it
        size = os.fstat(file.fileno()).st_size
        if size != descriptor.size:
            raise ObdError("corrupt", f"{size} bytes, {descriptor.digest} has {descriptor.size}", content)
        return FileBody(file), self._part_bytes

    def mount_blob(self, descriptor: Descriptor, source: ImageSource) -> bool:
        """As `ImageDestination.mount_blob`: what another repository of the same registry has."""
        if not isinstance(source, RegistrySource) or source.repository.host != self.repository.host:
            return False
        return self.mount_from(descriptor, source.repository.repository)

    def mount_from(self, descriptor: Descriptor, other: str) -> bool:
        """Has the registry take a blob from its repository `other`; false if it does not."""
        if other == self.repository.repository:
            return False
        try:
            location = mount(self.repository, descriptor, other)
        except ObdError:
            # It may be that this is not allowed, but sending the blob is.
            return False
        if location is not None:
            with self._lock:
                self._begun[descriptor.digest] = location
        return location is None

    def put_manifest(self, descriptor: Descriptor, data: bytes, tag: str | None) -> None:
        """As `ImageDestination.put_manifest`."""
        self.repository.put_manifest(tag or descriptor.digest, descriptor, data)

    def manifest(self, reference: str) -> bytes | None:
        """As `ImageDestination.manifest`."""
        return self.repository.find_manifest(reference)

    def close(self) -> None:
        """Nothing is left to do: everything counts as soon as it is there."""

    def discard(self) -> None:
        """What was sent stays; registries clear up what no tag names."""
