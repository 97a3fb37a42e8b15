"""From which image a layer is being pulled, if no label says so: containerd knows, and is asked.

A manifest that containerd has fetched carries labels: which blobs it refers to, and from which repository
it came. So images come lazily also where the client passes no reference of theirs, as `ctr images pull`
does. Source: containerd's documentation of garbage collection and of `containerd.io/distribution.source`.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import grpc

from obd.snapshotter.protobuf import define

_log: Final = logging.getLogger("overlaybd.snapshotter")

_SERVICE: Final = "containerd.services.content.v1"
_SOURCE: Final = "containerd.io/distribution.source."
# A manifest's layers have labels that end in their number.
_MAX_LAYERS: Final = 256
# This is asked while a layer waits to be pulled; containerd is on this machine.
_TIMEOUT_S: Final = 5.0

_messages: Final = define(
    _SERVICE,
    {
        "Info": (
            "digest:string",
            "size:int64",
            "created_at:google.protobuf.Timestamp",
            "updated_at:google.protobuf.Timestamp",
            "labels:map",
        ),
        "ListContentRequest": ("filters:*string",),
        "ListContentResponse": ("info:*Info",),
    },
)


class Origins:
    """Containerd at the socket `address`; "" for none, which knows nothing."""

    def __init__(self, address: str) -> None:
        self._channel: Final = grpc.insecure_channel(f"unix:{address}") if address else None

    def close(self) -> None:
        """Ends the connection."""
        if self._channel is not None:
            self._channel.close()

    def repository(self, digest: str, namespace: str) -> str:
        """Where the blob `digest` comes from, as `HOST/REPOSITORY`; "" if that is not known.

        Of several repositories any will do: all of them have it.
        """
        for labels in self._manifests(digest, namespace):
            for name, value in sorted(labels.items()):
                if name.startswith(_SOURCE) and value:
                    return f"{name.removeprefix(_SOURCE)}/{value.split(',')[0]}"
        return ""

    def _manifests(self, digest: str, namespace: str) -> list[dict[str, str]]:
        """The labels of the manifests that name a blob."""
        if self._channel is None:
            return []
        # Which number the layer has is not known; a filter is cheap.
        names = (f"containerd.io/gc.ref.content.l.{number}" for number in range(_MAX_LAYERS))
        request = _messages["ListContentRequest"](filters=[f'labels."{name}"=={digest}' for name in names])
        call: Any = self._channel.unary_stream(
            f"/{_SERVICE}.Content/List",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=_messages["ListContentResponse"].FromString,
        )
        metadata = [("containerd-namespace", namespace)]
        try:
            answers = list(call(request, timeout=_TIMEOUT_S, metadata=metadata))
        except grpc.RpcError as error:
            _log.warning("containerd does not say where %s comes from: %s", digest, error.details())
            return []
        return [dict(info.labels) for answer in answers for info in answer.info]
