"""The devices of snapshots: attached, mounted in the snapshot's directory, taken away when not in use."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from obd import attach as attachments
from obd.daemon.work import Pool
from obd.errors import ObdError, line_of
from obd.mount import filesystem
from obd.replace import replace_file
from obd.snapshotter.errors import DEADLINE_EXCEEDED, FAILED_PRECONDITION, UNAVAILABLE, SnapshotError
from obd.snapshotter.work import Work

if TYPE_CHECKING:
    from obd.snapshotter.config import SnapshotterConfig
    from obd.snapshotter.layout import Layout

_log: Final = logging.getLogger("overlaybd.snapshotter")

# Devices that are prepared at the same time.
THREADS: Final = 64

_MKFS: Final = {
    "ext4": ["-O", "^has_journal,sparse_super,flex_bg", "-G", "1", "-E", "discard", "-F"],
    "xfs": ["-f", "-l", "size=4m", "-m", "crc=0"],
    "f2fs": ["-S", "-w", "4096"],
    "ntfs": ["-F", "-f"],
}
_MKFS_TIMEOUT_S: Final = 300
_OPTIONS: Final = {"ext4": "discard", "xfs": "discard"}


class Devices:
    """At most one device a snapshot. Safe for use by several threads; those of one snapshot take turns."""

    def __init__(self, config: SnapshotterConfig, layout: Layout) -> None:
        self._config: Final = config
        self._layout: Final = layout
        self._lock: Final = threading.Lock()
        self._turns: Final[dict[int, tuple[threading.Lock, int]]] = {}
        self._wanted: Final[dict[tuple[int, bool, bool], Work[str]]] = {}
        self._reviving: Final[set[int]] = set()
        self._pool: Final = Pool("device", THREADS)
        self.on_attached: Callable[[], None] = lambda: None
        """Called after a device was attached."""

    @contextmanager
    def turn(self, number: int, deadline: float = float("inf")) -> Iterator[None]:
        """Lets nobody else change the device of a snapshot. `deadline` as of `time.monotonic`."""
        with self._lock:
            lock, users = self._turns.get(number, (threading.Lock(), 0))
            self._turns[number] = (lock, users + 1)
        try:
            patience_s = min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
            if not lock.acquire(timeout=patience_s):
                raise SnapshotError(
                    DEADLINE_EXCEEDED, f"the device of snapshot {number} is still being prepared"
                )
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._lock:
                lock, users = self._turns[number]
                if users == 1:
                    del self._turns[number]
                else:
                    self._turns[number] = (lock, users - 1)

    def provide(
        self,
        number: int,
        deadline: float,
        *,
        rw: bool,
        fs_type: str = "",
        mkfs: bool = False,
        mount: bool = True,
    ) -> str:
        """Has the device of a snapshot there, and mounted if that is wanted; its path.

        `fs_type` may hold options, as `type;mount options;mkfs options`. With `mkfs` an empty device gets a
        file system. Raises `SnapshotError`; then what was made here is gone again, also if it takes longer
        than the deadline (as of `time.monotonic`).
        """
        limit = time.monotonic() + self._config.device_timeout_s
        kind = (number, rw, mount)
        # Who wants the same device waits for the same work: one that is slow takes one thread, not all.
        with self._lock:
            found = self._wanted.get(kind)
            if found is None:
                found = self._wanted[kind] = Work(
                    lambda: self._provide(kind, limit, fs_type=fs_type, mkfs=mkfs)
                )
                try:
                    self._pool.submit(found.run)
                except RuntimeError as error:
                    del self._wanted[kind]  # or all who come later wait for it
                    raise SnapshotError(UNAVAILABLE, f"snapshot {number}: {error}") from error
            found.waiting += 1
        try:
            return found.result(min(deadline, limit), f"snapshot {number}: its device is not there in time")
        finally:
            with self._lock:
                found.waiting -= 1

    def _provide(self, kind: tuple[int, bool, bool], limit: float, *, fs_type: str, mkfs: bool) -> str:
        number, rw, mount = kind
        waiting = -1
        try:
            with self.turn(number, limit):
                path, made = self._provide_in_turn(number, rw, fs_type, mkfs, mount)
                waiting = self._no_more(kind)
                if made and not waiting:
                    self.release(number)
                return path
        finally:
            if waiting < 0:
                self._no_more(kind)

    def _no_more(self, kind: tuple[int, bool, bool]) -> int:
        """Who comes from now on has work of its own; how many wait for this one."""
        with self._lock:
            return self._wanted.pop(kind).waiting

    def later(self, job: Callable[[], None]) -> None:
        """Does something that may have to wait for a device, while nobody waits for that."""
        self._pool.submit(job)

    def _provide_in_turn(
        self, number: int, rw: bool, fs_type: str, mkfs: bool, mount: bool
    ) -> tuple[str, bool]:
        known = attachments.find(self._layout.config(number))
        if known is not None and known.dead and known.via == "fuse" and not self._survives(number):
            self._abandon(number, known.path)
        path = self.attached(number)
        made = not path
        if made:
            path = self._attach(number, rw)
        try:
            if mkfs and not _is_formatted(path):
                _make_file_system(path, fs_type or self._config.default_fs_type)
            point = self._layout.mount_point(number)
            if mount and not filesystem.is_mount_point(point):
                self._mount(path, point, rw, fs_type or self._config.default_fs_type)
        except BaseException:
            if made:
                with suppress(OSError):
                    self.release(number)
            raise
        return path, made

    def attached(self, number: int) -> str:
        """The device of a snapshot, "" if it is not attached or nobody serves it any more."""
        known = attachments.find(self._layout.config(number))
        return known.path if known is not None and not known.dead else ""

    def serve_again_soon(self, number: int, *, rw: bool) -> None:
        """As `serve_again`, but nobody waits for it: a registry may be slow. What fails is in the log."""
        with self._lock:
            if number in self._reviving:
                return
            self._reviving.add(number)

        def revive() -> None:
            try:
                self.serve_again(number, rw=rw)
            except (SnapshotError, OSError) as error:
                _log.error("%s", error)
            finally:
                with self._lock:
                    self._reviving.discard(number)

        try:
            self._pool.submit(revive)
        except RuntimeError as error:
            with self._lock:
                self._reviving.discard(number)
            _log.error("snapshot %d is not served again yet: %s", number, error)

    def serve_again(self, number: int, *, rw: bool) -> None:
        """Has a device whose server died served again, where the kernel lets it. Raises `SnapshotError`."""
        with self.turn(number):
            known = attachments.find(self._layout.config(number))
            if known is None or not known.dead:
                return
            if known.via == "fuse" and not self._survives(number):
                self._abandon(number, known.path)
                self._attach(number, rw)
                self._mount(self.attached(number), self._layout.mount_point(number), rw, "")
            else:
                self._attach(number, rw)

    def _survives(self, number: int) -> bool:
        """Whether the file system of a device is still good once a loop device has got another file.

        The kernel shuts down those that can be, such as ext4; EROFS knows nothing of it.
        """
        return filesystem.type_at(self._layout.mount_point(number)) in ("", "erofs")

    def _abandon(self, number: int, path: str) -> None:
        """Leaves a dead device to those who use it; others get another one."""
        what = "snapshot %d: %s has died with its file system: start containers that use it anew"
        _log.error(what, number, path)
        filesystem.unmount_lazily(self._layout.mount_point(number))
        try:
            attachments.abandon(self._layout.config(number))
        except OSError as error:
            raise SnapshotError(UNAVAILABLE, f"snapshot {number}: {line_of(error)}") from error

    def _attach(self, number: int, rw: bool) -> str:
        config = self._layout.config(number)
        try:
            made = attachments.attach(
                config, via=self._config.attach, rw=rw, service=self._config.service or None
            )
        except (ObdError, OSError) as error:
            raise SnapshotError(UNAVAILABLE, f"snapshot {number}: no device: {line_of(error)}") from error
        replace_file(self._layout.mark(number), made.path.encode(), 0o644)
        self.on_attached()
        _log.info("snapshot %d: %s by %s (%s)", number, made.path, made.via, made.why)
        return made.path

    def _mount(self, path: str, point: str, rw: bool, fs_type: str) -> None:
        kind, *options = fs_type.split(";")
        wanted = options[0] if options else _OPTIONS.get(kind, "")
        with open(path, "rb") as file:
            head = file.read(filesystem.HEAD_BYTES)
        if filesystem.kind_of_filesystem(head) == "erofs" or not rw:
            wanted = ",".join(each for each in wanted.split(",") if each != "discard")
        # Whoever runs the container says what counts there; nobody but root gets at the mount itself.
        wanted = ",".join(filter(None, ["dev", "suid", wanted]))
        try:
            filesystem.mount(path, point, head, read_only=not rw, options=wanted)
        except OSError as error:
            raise SnapshotError(UNAVAILABLE, line_of(error)) from error

    def release(self, number: int) -> bool:
        """Unmounts and detaches. False if there was no device. Raises `SnapshotError` if it is in use.

        What was written and could not be made durable is noted for `check_whole`.
        """
        point, done = self._layout.mount_point(number), True
        try:
            if filesystem.is_mount_point(point) and (lost := filesystem.unmount(point)):
                self._note(number, lost)
            try:
                done = attachments.detach(self._layout.config(number))
            except ObdError as error:
                if error.kind != "io":
                    raise
                self._note(number, line_of(error))  # the device is gone all the same
        except OSError as error:
            busy = getattr(error, "kind", "") == "busy" or error.errno == errno.EBUSY
            code = FAILED_PRECONDITION if busy else UNAVAILABLE
            raise SnapshotError(code, f"snapshot {number}: {line_of(error)}") from error
        with suppress(FileNotFoundError):
            os.unlink(self._layout.mark(number))
        return done

    def _note(self, number: int, lost: str) -> None:
        _log.error("snapshot %d: %s", number, lost)
        with suppress(FileNotFoundError):  # it was renamed already
            os.rename(self._layout.mark(number), self._layout.lost(number))  # the disk may be full

    def check_whole(self, number: int) -> None:
        """Raises `SnapshotError` if something was lost of what was written to a snapshot."""
        if os.path.exists(self._layout.lost(number)):
            what = f"snapshot {number} lacks what could not be made durable: the log says why"
            raise SnapshotError(FAILED_PRECONDITION, what)


def _is_formatted(path: str) -> bool:
    """Whether anything but zeros is where file systems begin."""
    with open(path, "rb") as file:
        return any(file.read(64 << 10))


def _make_file_system(path: str, fs_type: str) -> None:
    kind, _, options = fs_type.partition(";")
    _, given, mkfs = options.partition(";")
    words = mkfs.split() if given else _MKFS.get(kind, [])
    try:
        done = subprocess.run(
            ["mkfs", "-t", kind, *words, path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_MKFS_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SnapshotError(UNAVAILABLE, f"mkfs -t {kind} {path}: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise SnapshotError(UNAVAILABLE, f"mkfs -t {kind} {path} ended with {done.returncode}: {said}")
