"""The messages and methods of `containerd.services.snapshots.v1`, as a table instead of generated code.

Source: containerd's published API, `services/snapshots/v1`; names and numbers of fields are its facts.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from google.protobuf import empty_pb2

from obd.protobuf import define

PACKAGE: Final = "containerd.services.snapshots.v1"
SERVICE: Final = f"{PACKAGE}.Snapshots"

# The numbers of `Kind`.
VIEW: Final = 1
ACTIVE: Final = 2
COMMITTED: Final = 3

_KEYED: Final = ("snapshotter:string", "key:string")
_NEW: Final = (*_KEYED, "parent:string", "labels:map")

# Each message: its fields by ascending number. `*` marks repeated ones.
_MESSAGES: Final[dict[str, tuple[str, ...]]] = {
    "Mount": ("type:string", "source:string", "target:string", "options:*string"),
    "Info": (
        "name:string",
        "parent:string",
        "kind:int32",
        "created_at:google.protobuf.Timestamp",
        "updated_at:google.protobuf.Timestamp",
        "labels:map",
    ),
    "PrepareSnapshotRequest": _NEW,
    "PrepareSnapshotResponse": ("mounts:*Mount",),
    "ViewSnapshotRequest": _NEW,
    "ViewSnapshotResponse": ("mounts:*Mount",),
    "MountsRequest": _KEYED,
    "MountsResponse": ("mounts:*Mount",),
    "RemoveSnapshotRequest": _KEYED,
    "CommitSnapshotRequest": ("snapshotter:string", "name:string", "key:string", "labels:map"),
    "StatSnapshotRequest": _KEYED,
    "StatSnapshotResponse": ("info:Info",),
    "UpdateSnapshotRequest": ("snapshotter:string", "info:Info", "update_mask:google.protobuf.FieldMask"),
    "UpdateSnapshotResponse": ("info:Info",),
    "ListSnapshotsRequest": ("snapshotter:string", "filters:*string"),
    "ListSnapshotsResponse": ("info:*Info",),
    "UsageRequest": _KEYED,
    "UsageResponse": ("size:int64", "inodes:int64"),
    "CleanupRequest": ("snapshotter:string",),
}


class Method(NamedTuple):
    """A method: the message that it takes, the one that it gives ("" for nothing), and if it gives many."""

    request: str
    response: str
    streams: bool = False


METHODS: Final[dict[str, Method]] = {
    "Prepare": Method("PrepareSnapshotRequest", "PrepareSnapshotResponse"),
    "View": Method("ViewSnapshotRequest", "ViewSnapshotResponse"),
    "Mounts": Method("MountsRequest", "MountsResponse"),
    "Commit": Method("CommitSnapshotRequest", ""),
    "Remove": Method("RemoveSnapshotRequest", ""),
    "Stat": Method("StatSnapshotRequest", "StatSnapshotResponse"),
    "Update": Method("UpdateSnapshotRequest", "UpdateSnapshotResponse"),
    "List": Method("ListSnapshotsRequest", "ListSnapshotsResponse", streams=True),
    "Usage": Method("UsageRequest", "UsageResponse"),
    "Cleanup": Method("CleanupRequest", ""),
}

MESSAGES: Final = define(PACKAGE, _MESSAGES) | {"": empty_pb2.Empty}
"""The class of each message by its name; "" is the empty one."""
