"""The gRPC service that containerd calls: messages become calls of `Snapshots`, errors status codes."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import grpc

from obd.errors import kind_of, line_of
from obd.snapshotter.errors import SnapshotError
from obd.snapshotter.metrics import Calls
from obd.snapshotter.snapshots import Caller, Snapshots
from obd.snapshotter.wire import MESSAGES, METHODS, SERVICE

if TYPE_CHECKING:
    from obd.snapshotter.mounts import Mount
    from obd.snapshotter.records import Snapshot

_log: Final = logging.getLogger("overlaybd.snapshotter")

# Snapshots in one message of a list: a message has at most 4 MiB.
_PAGE: Final = 100
_CODES: Final = {"not-found": "NOT_FOUND", "no-space": "RESOURCE_EXHAUSTED", "denied": "PERMISSION_DENIED"}


class Service:
    """The methods, by their names."""

    def __init__(self, snapshots: Snapshots, calls: Calls) -> None:
        self._snapshots: Final = snapshots
        self._calls: Final = calls

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server needs."""
        methods = {}
        for name, method in METHODS.items():
            make = (
                grpc.unary_stream_rpc_method_handler
                if method.streams
                else grpc.unary_unary_rpc_method_handler
            )
            methods[name] = make(
                self._guarded(name, getattr(self, name), streams=method.streams),
                request_deserializer=MESSAGES[method.request].FromString,
                response_serializer=MESSAGES[method.response].SerializeToString,
            )
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _guarded(self, name: str, act: Callable[..., Any], *, streams: bool) -> Callable[[Any, Any], Any]:
        """The method, counted, with its failures as status codes."""

        def one(request: Any, context: grpc.ServicerContext) -> Any:
            with self._calls.timed(name) as call:
                try:
                    return act(request, context)
                except Exception as error:
                    call.failed = True
                    code, what = _status(name, error)
                    if code not in ("ALREADY_EXISTS", "NOT_FOUND"):
                        _log.error("%s %s: %s", name, getattr(request, "key", ""), what)
                    context.abort(grpc.StatusCode[code], what)

        def many(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            yield from one(request, context)

        return many if streams else one

    def Prepare(self, request: Any, context: grpc.ServicerContext) -> Any:
        """A new snapshot to write to."""
        labels = dict(request.labels)
        made = self._snapshots.prepare(request.key, request.parent, labels, _caller(context))
        return _mounts("PrepareSnapshotResponse", made)

    def View(self, request: Any, context: grpc.ServicerContext) -> Any:
        """A new snapshot to look at."""
        labels = dict(request.labels)
        made = self._snapshots.view(request.key, request.parent, labels, _caller(context))
        return _mounts("ViewSnapshotResponse", made)

    def Mounts(self, request: Any, context: grpc.ServicerContext) -> Any:
        """How a snapshot is mounted."""
        return _mounts("MountsResponse", self._snapshots.mounts(request.key, _caller(context)))

    def Commit(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Makes an active snapshot a committed one."""
        self._snapshots.commit(request.key, request.name, dict(request.labels), _caller(context))
        return MESSAGES[""]()

    def Remove(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Forgets a snapshot."""
        self._snapshots.remove(request.key, _caller(context))
        return MESSAGES[""]()

    def Stat(self, request: Any, context: grpc.ServicerContext) -> Any:
        """What is known of a snapshot."""
        return MESSAGES["StatSnapshotResponse"](info=_info(self._snapshots.stat(request.key)))

    def Update(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Changes labels."""
        info, fields = request.info, list(request.update_mask.paths)
        return MESSAGES["UpdateSnapshotResponse"](
            info=_info(self._snapshots.update(info.name, dict(info.labels), fields))
        )

    def List(self, request: Any, context: grpc.ServicerContext) -> list[Any]:
        """The snapshots that filters describe."""
        found = [_info(each) for each in self._snapshots.select(list(request.filters))]
        pages = range(0, len(found), _PAGE)
        return [MESSAGES["ListSnapshotsResponse"](info=found[at : at + _PAGE]) for at in pages]

    def Usage(self, request: Any, context: grpc.ServicerContext) -> Any:
        """What a snapshot takes on the disk."""
        usage = self._snapshots.usage(request.key)
        return MESSAGES["UsageResponse"](size=usage.size_bytes, inodes=usage.inodes)

    def Cleanup(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Deletes what is nobody's."""
        self._snapshots.cleanup()
        return MESSAGES[""]()


def _caller(context: grpc.ServicerContext) -> Caller:
    metadata = dict(context.invocation_metadata())
    namespace = metadata.get("containerd-namespace", "default")
    left_s = context.time_remaining()
    deadline = float("inf") if left_s is None else time.monotonic() + left_s
    return Caller(namespace.decode() if isinstance(namespace, bytes) else namespace, deadline)


def _status(name: str, error: Exception) -> tuple[str, str]:
    """The status code of a failure, and what is said of it."""
    if isinstance(error, SnapshotError):
        return error.code, str(error)
    if isinstance(error, OSError):
        return _CODES.get(kind_of(error), "UNKNOWN"), line_of(error)
    if isinstance(error, sqlite3.Error):
        return "UNAVAILABLE", f"the database of snapshots: {error}"
    _log.exception("%s failed in an unforeseen way", name)
    return "INTERNAL", f"{type(error).__name__}: {error}"


def _mounts(message: str, made: list[Mount]) -> Any:
    mounts = [MESSAGES["Mount"](type=each.type, source=each.source, options=each.options) for each in made]
    return MESSAGES[message](mounts=mounts)


def _info(snapshot: Snapshot) -> Any:
    info = MESSAGES["Info"](
        name=snapshot.name, parent=snapshot.parent, kind=snapshot.kind, labels=dict(snapshot.labels)
    )
    info.created_at.FromNanoseconds(snapshot.created_ns)
    info.updated_at.FromNanoseconds(snapshot.updated_ns)
    return info
