"""What containerd's calls mean: snapshots are made, shown, committed and removed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from obd.oci.digest import chain_ids, is_digest
from obd.snapshotter import labels as L
from obd.snapshotter import mounts, quota, writable
from obd.snapshotter.devices import Devices
from obd.snapshotter.errors import (
    ALREADY_EXISTS,
    DEADLINE_EXCEEDED,
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    SnapshotError,
)
from obd.snapshotter.filters import compile_filters
from obd.snapshotter.image import Images, blobs_url, remote_lower, turbo_lower
from obd.snapshotter.layout import Layout, remove_tree
from obd.snapshotter.origin import repository_of
from obd.snapshotter.records import Records, Snapshot, Usage
from obd.snapshotter.usage import usage_of
from obd.snapshotter.wire import ACTIVE, COMMITTED, VIEW

if TYPE_CHECKING:
    from obd.snapshotter.config import SnapshotterConfig
    from obd.snapshotter.mounts import Mount

_log: Final = logging.getLogger("overlaybd.snapshotter")

# How containerd names a snapshot that a layer is unpacked to; not all of its versions give it a label.
_UNPACKING: Final = "extract-"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a namespace of containerd, and until when (as of `time.monotonic`) it waits."""

    namespace: str = "default"
    deadline: float = float("inf")


class Snapshots:
    """All snapshots below one root. Safe for use by several threads.

    Methods raise `SnapshotError` and `OSError`.
    """

    def __init__(self, config: SnapshotterConfig) -> None:
        self.config: Final = config
        self.layout: Final = Layout(config.root)
        self.records: Final = Records(self.layout.database, known=bool(self.layout.numbers()))
        self.images: Final = Images(self.layout, config.turbo_fs_types)
        self.devices: Final = Devices(config, self.layout)
        self.on_marked: Callable[[], None] = lambda: None
        """Called after an unpacked image has been used for the first time."""

    def close(self) -> None:
        """Leaves all as it is, for the next process."""
        self.records.close()

    # What containerd asks for.

    def stat(self, key: str) -> Snapshot:
        """What is known of a snapshot."""
        return self.records.get(key)

    def select(self, filters: Sequence[str]) -> list[Snapshot]:
        """The snapshots that any of the filters describes."""
        wanted = compile_filters(filters)
        return [each for each in self.records.all() if wanted(each.lookup)]

    def update(self, name: str, labels: Mapping[str, str], fields: Sequence[str]) -> Snapshot:
        """Changes labels: all of them, or those that `fields` names as `labels.NAME`."""
        with self.records.transaction():
            found = dict(self.records.get(name).labels)
            for field in fields or ("labels",):
                if field == "labels":
                    found = dict(labels)
                    continue
                prefix, _, label = field.partition(".")
                if prefix != "labels" or not label:
                    raise SnapshotError(INVALID_ARGUMENT, f"{field} of snapshot {name} cannot be changed")
                found.pop(label, None)
                if label in labels:
                    found[label] = labels[label]
            return self.records.label(name, found)

    def usage(self, key: str) -> Usage:
        """What a snapshot takes; of a committed one, what it took then."""
        found = self.records.get(key)
        return found.usage if found.kind == COMMITTED else self._measure(found.id)

    def _measure(self, number: int) -> Usage:
        block = self.layout.block(number) if self.images.is_block(number) else ""
        directories = [self.layout.fs(number), *([block] if block else [])]
        return usage_of(*directories, besides=self.layout.mount_point(number))

    def prepare(self, key: str, parent: str, labels: Mapping[str, str], caller: Caller) -> list[Mount]:
        """A new snapshot to write to, and how to mount it. ALREADY_EXISTS: its layer need not be fetched."""
        return self._new(ACTIVE, key, parent, labels, caller)

    def view(self, key: str, parent: str, labels: Mapping[str, str], caller: Caller) -> list[Mount]:
        """A new snapshot to look at, and how to mount it."""
        return self._new(VIEW, key, parent, labels, caller)

    def mounts(self, key: str, caller: Caller) -> list[Mount]:
        """How to mount an active snapshot or a view; its device is provided anew if need be."""
        found = self.records.get(key)
        if found.kind == COMMITTED:
            raise SnapshotError(FAILED_PRECONDITION, f"snapshot {key} is committed: it cannot be mounted")
        return self._mounts(found, caller)

    def _new(
        self, kind: int, key: str, parent: str, labels: Mapping[str, str], caller: Caller
    ) -> list[Mount]:
        with self.records.transaction():
            made = self.records.create(kind, key, parent, labels)
            above = self.records.get(parent).id if parent else None
            self.layout.make(made.id, active=kind == ACTIVE, owner_of=above)
        try:
            if L.TARGET in labels and self._stays_remote(made, above, caller):
                raise SnapshotError(ALREADY_EXISTS, f"target snapshot {labels[L.TARGET]!r}: already exists")
            self._set_up(made, above)
            return self._mounts(made, caller)
        except BaseException as error:
            if getattr(error, "code", "") == DEADLINE_EXCEEDED:
                self.devices.later(lambda: self._undo(key))  # its device may still be being prepared
            else:
                self._undo(key)
            raise

    def _undo(self, key: str) -> None:
        """Removes what has just been made in vain, if it is still there under this name."""
        try:
            self.remove(key)
        except SnapshotError as error:
            if error.code != "NOT_FOUND":
                _log.error("what was made for %s remains: %s", key, error)

    # Layers that are pulled.

    def _stays_remote(self, made: Snapshot, above: int | None, caller: Caller) -> bool:
        """Whether a layer is read from its registry; then it is committed already."""
        labels = made.labels
        if L.BLOB_DIGEST not in labels or _is_turbo(labels) or L.ACCELERATION in labels:
            return False
        if labels.get(L.DOWNLOAD) == "download" or not (above is None or self.images.is_block(above)):
            return False
        reference = self._image(labels, caller)
        if not reference:
            _log.info("%s: nobody knows of which image it is: it is downloaded", labels[L.BLOB_DIGEST])
            return False
        lower = remote_lower(labels, self.layout.fs(made.id))
        # Other images with that chain ID get this snapshot. What is downloaded, containerd checks itself.
        # Upstream's convertor has names of its own.
        target, below = labels[L.TARGET], [made.parent.rpartition("/")[2]] if made.parent else []
        if is_digest(target) and target != chain_ids([*below, lower["digest"]])[-1]:
            _log.warning("%s is not the layer that its image says: it is downloaded", lower["digest"])
            return False
        self.images.write(made.id, above, url=blobs_url(reference, self.config.mirrors), lower=lower)
        kept = {**labels, L.REMOTE: "remote snapshot"}
        try:
            self.records.commit(made.name, labels[L.TARGET], kept, self._measure(made.id))
        except SnapshotError as error:
            if error.code != ALREADY_EXISTS:
                raise
            self._undo(made.name)  # another pull of the same layer was first
        return True

    def _image(self, labels: Mapping[str, str], caller: Caller) -> str:
        """The image that a layer is of, or its repository; "" if nobody knows."""
        # Who pulls says it by one label. Another is an annotation of the image: nobody can tell which.
        told = {labels[name] for name in L.IMAGE_REFERENCES if labels.get(name)}
        digest = labels.get(L.BLOB_DIGEST, "")
        return (
            told.pop()
            if len(told) == 1
            else (repository_of(digest, self.config.containerd, caller.namespace) if digest else "")
        )

    # Root file systems.

    def _set_up(self, made: Snapshot, above: int | None) -> None:
        """Gives a snapshot a device of its own, if it is to have one."""
        labels = made.labels
        if L.TARGET in labels or labels.get(L.TYPE) == "image":
            return
        self._limit(made, above)
        has_device = above is not None and self.images.is_block(above)
        if made.kind == ACTIVE and self._mode(made, above) != "overlayfs":
            upper = writable.create(
                self.layout, made, above, sparse=self.config.writable_layer_type == "sparse"
            )
            self.images.write(made.id, above, upper=upper)
        elif has_device and labels.get(L.RECORD_TRACE) == "yes" and labels.get(L.TRACE_PATH):
            # A device of its own, so that containers of the same image have nothing to do with it.
            self.images.write(made.id, above, trace=labels[L.TRACE_PATH])

    def _limit(self, made: Snapshot, above: int | None) -> None:
        """Sets how much may be written to an overlay; a device has its own size."""
        told = made.labels.get(L.QUOTA, "")
        size = quota.size_bytes(told or self.config.rootfs_quota, L.QUOTA if told else "rootfsQuota")
        written = made.kind == ACTIVE and not _is_unpacking(made)
        if size and written and self._mode(made, above) == "overlayfs":
            quota.limit(made.id, (self.layout.fs(made.id), self.layout.work(made.id)), size)

    def _is_init(self, name: str) -> bool:
        """Whether a snapshot is where Docker puts files of its own, between image and container."""
        named = name.endswith("-init") or "-init-" in name
        return named and self.config.runtime_type == "docker" and self.config.rw_mode == "overlayfs"

    def _mode(self, snapshot: Snapshot, above: int | None) -> str:
        """How a snapshot is written to: `overlayfs`, `dir` or `dev`."""
        told = snapshot.labels.get(L.WRITABLE, "")
        if told and told not in ("dir", "dev", "overlayfs"):
            raise SnapshotError(INVALID_ARGUMENT, f"{L.WRITABLE}: {told!r} must be dir or dev")
        if above is None:
            return told or "overlayfs"
        return (told or self.config.rw_mode) if self.images.is_block(above) else "overlayfs"

    def _mounts(self, snapshot: Snapshot, caller: Caller) -> list[Mount]:
        """How a snapshot is mounted, once its device or that of an ancestor is there."""
        number, view = snapshot.id, snapshot.kind == VIEW
        chain = self.records.chain(snapshot.name)
        if self._is_unpacked_apart(snapshot):
            return [mounts.bind(self.layout.fs(number), rw=True)]
        if self.images.is_block(number) and os.path.exists(self.layout.upper(number)[0]):
            return [self._writable(snapshot, chain, caller)]
        lowers: list[str] = []
        for each in [snapshot, *chain]:
            if self.images.serves(each.id, number):
                self._provide(each, caller)
                lowers.append(self.layout.mount_point(each.id))
                break
            if each is not snapshot:
                lowers.append(self.layout.fs(each.id))
        else:
            self._mark(snapshot, chain)
        if not view and self._is_init(snapshot.name):
            return [mounts.bind(self.layout.fs(number), rw=True)]
        return [mounts.shown(self.layout, number, lowers, view=view)]

    def _mark(self, snapshot: Snapshot, chain: list[Snapshot]) -> None:
        """Has an unpacked image converted, now that it is used."""
        if _is_unpacking(snapshot) or not self.config.convert_layers:
            return
        if chain and all(self.images.is_unpacked(each.id) for each in chain):
            wish = self.layout.wish(chain[0].id)
            if not self.images.is_block(chain[0].id) and not os.path.exists(wish):
                # Without a draft of its own: several may do so at once.
                os.close(os.open(wish, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
                self.on_marked()

    def _is_unpacked_apart(self, snapshot: Snapshot) -> bool:
        """Whether what is pulled is a file that makes a device, and not files of the image."""
        labels = snapshot.labels
        return L.TARGET in labels and (
            L.BLOB_DIGEST in labels or _is_turbo(labels) or L.ACCELERATION in labels
        )

    def _provide(self, snapshot: Snapshot, caller: Caller) -> None:
        fs_type = snapshot.labels.get(L.FS_TYPE, "")
        self.devices.provide(snapshot.id, caller.deadline, rw=False, fs_type=fs_type)

    def _writable(self, snapshot: Snapshot, chain: list[Snapshot], caller: Caller) -> Mount:
        """The mount of a writable device."""
        number = snapshot.id
        fs_type = next(
            (each.labels[L.FS_TYPE] for each in (snapshot, *chain) if L.FS_TYPE in each.labels), ""
        )
        in_place = self._mode(snapshot, chain[0].id if chain else None) == "dir"
        path = self.devices.provide(
            number, caller.deadline, rw=True, fs_type=fs_type, mkfs=not chain, mount=in_place
        )
        if in_place:
            return mounts.bind(self.layout.mount_point(number), rw=True)
        return mounts.device(path, fs_type.partition(";")[0] or self.config.default_fs_type)

    # The end of a snapshot.

    def commit(self, key: str, name: str, labels: Mapping[str, str], caller: Caller) -> None:
        """Makes an active snapshot one that others can be made from."""
        found = self.records.get(key)
        if found.kind != ACTIVE:
            raise SnapshotError(FAILED_PRECONDITION, f"snapshot {key} is not active")
        with self.devices.turn(found.id, caller.deadline):
            kept = dict(labels)
            self.records.must_be_new(name)  # before anything is changed for good
            self._finish(found, {**found.labels, **labels}, kept, caller)
            self.records.commit(key, name, kept, self._measure(found.id))

    def _finish(
        self, found: Snapshot, labels: Mapping[str, str], kept: dict[str, str], caller: Caller
    ) -> None:
        """Has the configuration of a device there, if there is to be a device. Can be repeated."""
        number = found.id
        above = self.records.get(found.parent).id if found.parent else None
        if os.path.exists(self.layout.upper(number)[0]) or writable.is_sealed(self.layout, number):
            self.devices.release(number)
            self.devices.check_whole(number)
            kept[L.COMMIT_PATH] = writable.seal(self.layout, number)
            kept.pop(L.WRITABLE, None)
            self.images.write(number, above, lower={"dir": self.layout.fs(number)})
        elif _is_turbo(labels):
            lower = turbo_lower(labels, self.layout.fs(number), self.images.turbo_types(above))
            reference = self._image(labels, caller)
            url = blobs_url(reference, self.config.mirrors) if reference else ""
            self.images.write(number, above, url=url, lower=lower)
        elif above is None or self.images.is_block(above):
            if L.ACCELERATION in labels:
                self.images.write(number, above, lower={"dir": self.layout.fs(number)}, accelerated=True)
            elif self.images.has_layer(number):
                self.images.write(number, above, lower={"dir": self.layout.fs(number)})

    def remove(self, key: str, caller: Caller | None = None) -> None:
        """Forgets a snapshot that nobody was made from, with its device and its files."""
        deadline = caller.deadline if caller else float("inf")
        found = self.records.get(key)
        above = self.records.get(found.parent) if found.parent else None
        with self.devices.turn(found.id, deadline):
            if children := self.records.children(key):
                what = f"snapshot {key} is the parent of {children[0].name}"
                raise SnapshotError(FAILED_PRECONDITION, what)
            if self.images.is_block(found.id):
                self.devices.release(found.id)
            quota.forget(found.id, self.layout.fs(found.id))
            self.records.remove(key)
            # From here on it is gone; what remains of its files after a crash is found as nobody's.
            old = self.layout.retire(found.id)
        if old and not self.config.async_remove:
            self._delete(old)
        if above is not None and (self.config.auto_remove_dev or self._is_init(key)):
            self._release_unused(above)

    def _release_unused(self, above: Snapshot) -> None:
        with suppress(SnapshotError), self.devices.turn(above.id, time.monotonic()):
            if not any(each.kind != COMMITTED for each in self.records.children(above.name)):
                self.devices.release(above.id)

    def _delete(self, path: str) -> None:
        try:
            remove_tree(path)
        except FileNotFoundError:
            pass  # somebody else deletes it
        except OSError as error:
            _log.warning("%s remains: %s", path, error)

    def cleanup(self) -> None:
        """Deletes what is nobody's."""
        with self.records.transaction():  # within one of which directories are made
            self.layout.retire_unfinished()
        for path in self.layout.rubbish():
            self._delete(path)


def _is_unpacking(snapshot: Snapshot) -> bool:
    """Whether a snapshot is made for a layer to be unpacked to, and not for a container."""
    return L.TARGET in snapshot.labels or snapshot.name.rpartition("/")[2].startswith(_UNPACKING)


def _is_turbo(labels: Mapping[str, str]) -> bool:
    """Whether a layer is turboOCI's: metadata over an original layer."""
    return bool(L.target_of(labels)[0])
