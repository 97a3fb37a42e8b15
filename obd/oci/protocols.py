"""What a place with images is: one to read from, one to write to, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from obd.oci.descriptor import Descriptor

# Called with the bytes of a blob that are done and with all there are.
Progress = Callable[[int, int], object]
# A blob to be written: the path of a file, bytes, or a stream that is read once from where it stands.
Content = str | bytes | BinaryIO


class ImageSource(Protocol):
    """A place that images are read from. All that it gives has been checked. Safe for any thread.

    Methods raise `OSError`: `ObdError` "corrupt" for what is not what its digest says, "not-found" for what
    is not there, and whatever the place has to say.
    """

    name: str
    """For messages: no secrets."""

    def root(self) -> tuple[Descriptor, bytes]:
        """The manifest or index that the name of the source names."""

    def manifest(self, descriptor: Descriptor) -> bytes:
        """The bytes of a manifest or an index, checked."""

    def blob(self, descriptor: Descriptor) -> BinaryIO:
        """A blob as a stream, which raises in place of its end if size or digest are not those expected.

        It is to be closed.
        """

    def path(self, descriptor: Descriptor) -> str | None:
        """The file of this machine that is the blob, unchecked; None if there is none."""
        return None

    def referrers(self, descriptor: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """The manifests whose subject this one is, of one type or all."""
        return ()

    def close(self) -> None:
        """Gives back what it holds."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ImageDestination(Protocol):
    """A place that images are written to. Safe for any thread.

    Blobs first, then the manifests that name them, the one with the tag last. As a context manager it is
    closed, or after an exception discarded.
    """

    name: str
    """For messages: no secrets."""
    tag: str
    """What the name says; "" for none."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob need not be sent."""

    def put_blob(self, descriptor: Descriptor, content: Content, progress: Progress | None = None) -> None:
        """Stores a blob unless it is there. "corrupt" for content of another size or digest."""

    def mount_blob(self, descriptor: Descriptor, source: ImageSource) -> bool:
        """Has the place take the blob from where `source` has it, without its bytes coming here."""
        return False

    def put_manifest(self, descriptor: Descriptor, data: bytes, tag: str | None) -> None:
        """Stores a manifest or an index under a tag.

        "" stores one that stands for itself but has no tag, None one that another one names.
        """

    def manifest(self, reference: str) -> bytes | None:
        """The manifest or index of a tag or digest as it is there now; None if there is none."""

    def close(self) -> None:
        """Makes all that was written count. An archive gets its name only now."""

    def discard(self) -> None:
        """Gives up: removes what would stand in the way. In place of `close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
