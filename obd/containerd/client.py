"""A connection to containerd: content, images, leases and snapshots of one namespace."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import grpc

from obd.containerd.wire import COMMIT, CONTENT, DIFF, IMAGES, LEASES, WRITE
from obd.containerd.wire import MESSAGES as OTHERS
from obd.errors import ObdError
from obd.snapshotter.wire import MESSAGES as SNAPSHOT_MESSAGES
from obd.snapshotter.wire import PACKAGE as SNAPSHOTS

if TYPE_CHECKING:
    from obd.oci.descriptor import Descriptor

DEFAULT_ADDRESS: Final = "/run/containerd/containerd.sock"
# A layer may have to be unpacked, or a device to come up.
TIMEOUT_S: Final = 600.0
# Content in one message, of which one has at most 4 MiB.
_PIECE_BYTES: Final = 1 << 20
# What a lease protects that was left behind by a crash goes after so long.
_LEASE: Final = timedelta(hours=24)
_KINDS: Final = {
    grpc.StatusCode.ALREADY_EXISTS: "exists",
    grpc.StatusCode.NOT_FOUND: "not-found",
    grpc.StatusCode.PERMISSION_DENIED: "denied",
    grpc.StatusCode.DEADLINE_EXCEEDED: "timed-out",
    grpc.StatusCode.FAILED_PRECONDITION: "busy",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
}
_MESSAGES: Final[Mapping[str, Mapping[str, Any]]] = {**OTHERS, SNAPSHOTS: SNAPSHOT_MESSAGES}


class Containerd:
    """Containerd at the socket `address`. Methods raise `ObdError`, which says what containerd said."""

    def __init__(self, address: str, namespace: str) -> None:
        self._address: Final = address
        self._metadata = [("containerd-namespace", namespace)]
        self._channel: Final = grpc.insecure_channel(f"unix:{address}")

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def __enter__(self) -> Containerd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self, package: str, method: str, request: Any, response: str, timeout_s: float = TIMEOUT_S
    ) -> Any:
        """One call; of a `SERVICE/METHOD` that streams, give the requests as an iterator."""
        many = isinstance(request, Iterator)
        make: Any = self._channel.stream_stream if many else self._channel.unary_unary
        if method == "Content/List":
            make = self._channel.unary_stream
        act = make(
            f"/{package}.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=_MESSAGES[package][response].FromString,
        )
        try:
            answer = act(request, timeout=timeout_s, metadata=self._metadata)
            return list(answer) if many or method == "Content/List" else answer
        except grpc.RpcError as error:
            kind = _KINDS.get(error.code(), "io")
            what = f"containerd: {method}: {error.details()}"
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                what = f"containerd does not answer: {error.details()}"
            raise ObdError(kind, what, self._address) from None

    @contextmanager
    def lease(self) -> Iterator[None]:
        """What is brought within is not collected before the block ends."""
        messages = OTHERS[LEASES]
        name = f"obd-{secrets.token_hex(8)}"
        expires = (datetime.now(UTC) + _LEASE).strftime("%Y-%m-%dT%H:%M:%SZ")
        request = messages["CreateRequest"](id=name, labels={"containerd.io/gc.expire": expires})
        self.call(LEASES, "Leases/Create", request, "CreateResponse")
        self._metadata.append(("containerd-lease", name))
        try:
            yield
        finally:
            self._metadata.pop()
            with suppress(ObdError):
                self.call(LEASES, "Leases/Delete", messages["DeleteRequest"](id=name), "")

    def manifests_of(self, digest: str, fields: Iterable[str], timeout_s: float) -> list[dict[str, str]]:
        """The labels of all content that refers to a blob by one of some labels."""
        request = OTHERS[CONTENT]["ListContentRequest"](
            filters=[f'labels."{each}"=={digest}' for each in fields]
        )
        answers = self.call(CONTENT, "Content/List", request, "ListContentResponse", timeout_s)
        return [dict(info.labels) for answer in answers for info in answer.info]

    def put(self, descriptor: Descriptor, stream: BinaryIO, labels: Mapping[str, str]) -> None:
        """Brings a blob, unless containerd has it, and labels it."""
        messages = OTHERS[CONTENT]
        try:
            self.call(
                CONTENT, "Content/Info", messages["InfoRequest"](digest=descriptor.digest), "InfoResponse"
            )
        except ObdError as error:
            if error.errno != errno.ENOENT:
                raise
            with suppress_existing():
                self.call(
                    CONTENT, "Content/Write", _pieces(descriptor, stream, labels), "WriteContentResponse"
                )
                return
        request = messages["UpdateRequest"](info=messages["Info"](digest=descriptor.digest, labels=labels))
        request.update_mask.paths.extend(f"labels.{name}" for name in labels)
        self.call(CONTENT, "Content/Update", request, "UpdateResponse")

    def name(self, name: str, target: Descriptor, labels: Mapping[str, str]) -> None:
        """Gives an image its name, which another image may have had."""
        messages = OTHERS[IMAGES]
        image = messages["Image"](name=name, labels=labels, target=_of(IMAGES, target))
        try:
            self.call(
                IMAGES, "Images/Create", messages["CreateImageRequest"](image=image), "CreateImageResponse"
            )
        except ObdError as error:
            if error.kind != "exists":
                raise
            request = messages["UpdateImageRequest"](image=image)
            request.update_mask.paths.extend(["target", "labels"])
            self.call(IMAGES, "Images/Update", request, "UpdateImageResponse")

    def apply(self, descriptor: Descriptor, mounts: Sequence[Any]) -> str:
        """Unpacks a layer that was brought into what a snapshot shows; the digest of what was unpacked."""
        request = OTHERS[DIFF]["ApplyRequest"](diff=_of(DIFF, descriptor))
        for mount in mounts:
            request.mounts.add(type=mount.type, source=mount.source, options=mount.options)
        answer = self.call(DIFF, "Diff/Apply", request, "ApplyResponse")
        return str(answer.applied.digest)

    def snapshots(self, method: str, snapshotter: str, **fields: Any) -> Any:
        """A call of a snapshotter by way of containerd, which keeps names apart by namespace."""
        names = {"Prepare": ("PrepareSnapshotRequest", "PrepareSnapshotResponse")}
        names |= {"Commit": ("CommitSnapshotRequest", ""), "Remove": ("RemoveSnapshotRequest", "")}
        names |= {"Stat": ("StatSnapshotRequest", "StatSnapshotResponse")}
        request, response = names[method]
        message = SNAPSHOT_MESSAGES[request](snapshotter=snapshotter, **fields)
        return self.call(SNAPSHOTS, f"Snapshots/{method}", message, response)


@contextmanager
def suppress_existing() -> Iterator[None]:
    """What is there already is as good as what was made."""
    try:
        yield
    except ObdError as error:
        if error.kind != "exists":
            raise


def _of(package: str, descriptor: Descriptor) -> Any:
    return OTHERS[package]["Descriptor"](
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        annotations=dict(descriptor.annotations),
    )


def _pieces(descriptor: Descriptor, stream: BinaryIO, labels: Mapping[str, str]) -> Iterator[Any]:
    """The messages that write a blob."""
    make = OTHERS[CONTENT]["WriteContentRequest"]
    reference = f"obd-{secrets.token_hex(8)}-{descriptor.digest}"
    offset = 0
    while piece := stream.read(_PIECE_BYTES):
        yield make(action=WRITE, ref=reference, total=descriptor.size, offset=offset, data=piece)
        offset += len(piece)
    yield make(
        action=COMMIT,
        ref=reference,
        total=descriptor.size,
        expected=descriptor.digest,
        offset=offset,
        labels=dict(labels),
    )
