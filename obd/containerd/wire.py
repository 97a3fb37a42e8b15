"""Messages of containerd's services, as tables. Source: its published API, of which these are facts."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import empty_pb2

from obd.protobuf import define

_STAMPS: Final = ("created_at:google.protobuf.Timestamp", "updated_at:google.protobuf.Timestamp")
_DESCRIPTOR: Final = ("media_type:string", "digest:string", "size:int64", "", "annotations:map")
_INFO: Final = ("digest:string", "size:int64", *_STAMPS, "labels:map")

CONTENT: Final = "containerd.services.content.v1"
DIFF: Final = "containerd.services.diff.v1"
IMAGES: Final = "containerd.services.images.v1"
LEASES: Final = "containerd.services.leases.v1"

# What a write does.
WRITE: Final = 1
COMMIT: Final = 2

_TABLES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    CONTENT: {
        "Info": _INFO,
        "InfoRequest": ("digest:string",),
        "InfoResponse": ("info:Info",),
        "ListContentRequest": ("filters:*string",),
        "ListContentResponse": ("info:*Info",),
        "UpdateRequest": ("info:Info", "update_mask:google.protobuf.FieldMask"),
        "UpdateResponse": ("info:Info",),
        "WriteContentRequest": (
            "action:int32",
            "ref:string",
            "total:int64",
            "expected:string",
            "offset:int64",
            "data:bytes",
            "labels:map",
        ),
        "WriteContentResponse": (
            "action:int32",
            "started_at:google.protobuf.Timestamp",
            "updated_at:google.protobuf.Timestamp",
            "offset:int64",
            "total:int64",
            "digest:string",
        ),
    },
    DIFF: {
        "Descriptor": _DESCRIPTOR,
        "Mount": ("type:string", "source:string", "target:string", "options:*string"),
        "ApplyRequest": ("diff:Descriptor", "mounts:*Mount"),
        "ApplyResponse": ("applied:Descriptor",),
    },
    IMAGES: {
        "Descriptor": _DESCRIPTOR,
        "Image": ("name:string", "labels:map", "target:Descriptor", "", "", "", *_STAMPS),
        "CreateImageRequest": ("image:Image",),
        "CreateImageResponse": ("image:Image",),
        "UpdateImageRequest": ("image:Image", "update_mask:google.protobuf.FieldMask"),
        "UpdateImageResponse": ("image:Image",),
    },
    LEASES: {
        "Lease": ("id:string", "created_at:google.protobuf.Timestamp", "labels:map"),
        "CreateRequest": ("id:string", "", "labels:map"),
        "CreateResponse": ("lease:Lease",),
        "DeleteRequest": ("id:string", "sync:bool"),
    },
}

MESSAGES: Final[dict[str, dict[str, Any]]] = {
    package: define(package, table) | {"": empty_pb2.Empty} for package, table in _TABLES.items()
}
"""The classes of messages, by service and name."""
