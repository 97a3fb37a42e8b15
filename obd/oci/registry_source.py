"""An image of a registry as a source: manifests by Python, blobs by the core, range by range."""

from __future__ import annotations

import io
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from obd.oci.descriptor import Descriptor
from obd.oci.digest import Verified, check, digest_of
from obd.oci.manifest import parse_manifest
from obd.oci.protocols import ImageSource
from obd.oci.repository import Repository
from obd.secret import without_secrets

if TYPE_CHECKING:
    import obdcore
    from obd.reference import Reference
    from obd.registry import Registry

# Bytes of one request, of which one is under way while the one before is used.
RANGE_BYTES: Final = 4 << 20
# Seconds that a read waits for a registry that is away or overloaded.
ENDURE_S: Final = 30.0


class RegistrySource(ImageSource):
    """The image that `image` names; mirrors and P2P are used as for reading devices."""

    def __init__(self, registry: Registry, image: Reference) -> None:
        self.repository: Final = Repository(registry, image.url)
        self._reference: Final = image.digest or image.tag or "latest"
        self.name = without_secrets(image.url)
        self._lock: Final = threading.Lock()
        self._open: Final[weakref.WeakSet[_Ahead]] = weakref.WeakSet()

    def root(self) -> tuple[Descriptor, bytes]:
        """As `ImageSource.root`."""
        media_type, data = self.repository.manifest(self._reference)
        parsed = parse_manifest(data, media_type, self.name)
        digest = self._reference if ":" in self._reference else digest_of(data)
        return Descriptor(parsed.media_type, digest, len(data)), data

    def manifest(self, descriptor: Descriptor) -> bytes:
        """As `ImageSource.manifest`."""
        _, data = self.repository.manifest(descriptor.digest)
        return check(data, descriptor, self.name)

    def blob(self, descriptor: Descriptor) -> BinaryIO:
        """As `ImageSource.blob`. After a broken connection it goes on where it was."""
        url = f"{self.repository.url}/blobs/{descriptor.digest}"
        where = without_secrets(url)
        if not descriptor.size:
            return _checked(io.BytesIO(), descriptor, where)
        remote = self.repository.registry.open_blob(url, size=descriptor.size)
        remote.endure(ENDURE_S)
        stream = _Ahead(remote, descriptor.size)
        with self._lock:
            self._open.add(stream)
        return _checked(stream, descriptor, where)

    def referrers(self, descriptor: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """As `ImageSource.referrers`."""
        return self.repository.referrers(descriptor.digest, artifact_type)

    def close(self) -> None:
        """Ends the waiting of those who still read for a registry that does not answer."""
        with self._lock:
            for stream in self._open:
                stream.hurry()


def _checked(stream: object, descriptor: Descriptor, where: str) -> BinaryIO:
    verified = Verified(cast(BinaryIO, stream), descriptor, where)
    return cast(BinaryIO, io.BufferedReader(verified, 1 << 20))


class _Ahead(io.RawIOBase):
    """A remote blob from its beginning to its end, the next range fetched while one is read."""

    def __init__(self, blob: obdcore.RemoteBlob, size: int) -> None:
        self._blob = blob
        self._size = size
        self._asked = 0
        self._pool = ThreadPoolExecutor(1, "obd-blob")
        self._next: Future[bytes] | None = None
        self._part = memoryview(b"")

    def readable(self) -> bool:
        """True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, none at the end. Raises `obdcore.Error`."""
        if not self._part:
            self._part = memoryview(self._fetch())
        taken = self._part[: size if size >= 0 else len(self._part)]
        self._part = self._part[len(taken) :]
        return bytes(taken)

    def hurry(self) -> None:
        """Has reads wait no longer for a registry that does not answer."""
        self._blob.endure(0)

    def close(self) -> None:
        """Reads no more; what is under way ends soon."""
        self.hurry()
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _fetch(self) -> bytes:
        self._ask()
        asked, self._next = self._next, None
        if asked is None:
            return b""
        # The one after it is under way while this one is used.
        data = asked.result()
        self._ask()
        return data

    def _ask(self) -> None:
        count = min(RANGE_BYTES, self._size - self._asked)
        if self._next is None and count:
            self._next = self._pool.submit(self._blob.read_at, self._asked, count)
            self._asked += count
