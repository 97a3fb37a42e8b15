"""Fetching in advance what a trace or a list of paths names, beside an open image."""

from __future__ import annotations

import errno
import io
import logging
import tarfile
import threading
from collections.abc import Callable
from typing import Final, Protocol

import obdcore

_log: Final = logging.getLogger("overlaybd.prefetch")

# The largest trace that is read: four million records. The tar around one adds little.
MAX_TRACE_BYTES: Final = (4 << 20) * 24 + 24
# The largest list of paths (upstream ignores more than 64 KiB).
MAX_LIST_BYTES: Final = 16 << 20
MAX_TAR_BYTES: Final = MAX_TRACE_BYTES + (1 << 20)
# The name of the one file in an acceleration layer.
TRACE_NAME: Final = "trace"
# Bytes of a layer read at a time.
_PIECE_BYTES: Final = 4 << 20
# How long stopping waits for what hangs.
_STOP_S: Final = 3.0


class Readable(Protocol):
    """A blob that a trace may be in."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Those bytes."""


class Replay:
    """Fetches in advance, in threads of its own, until done or stopped. A failure is a line in the log."""

    def __init__(
        self,
        image: obdcore.Image,
        load: Callable[[], bytes],
        *,
        name: str,
        workers: int,
        max_bytes: int,
    ) -> None:
        """Begins. `load` gives trace or list, or nothing to do if empty; it may take its time.

        `name` is for the log. At most `workers` fetches at a time, none after `max_bytes` (0: no bound).
        """
        self._image: Final = image
        self._load: Final = load
        self._name: Final = name
        self._workers: Final = workers
        self._max_bytes: Final = max_bytes
        self._lock: Final = threading.Lock()
        self._stopped = False
        self._prefetch: obdcore.Prefetch | None = None
        self._thread: Final = threading.Thread(target=self._run, name="replay", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begins no fetch any more and waits for those under way, but not for long. Never raises."""
        with self._lock:
            self._stopped = True
            prefetch = self._prefetch
        if prefetch is not None:
            prefetch.stop()
        self._thread.join(_STOP_S)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Returns when all is done (True) or time is over (False)."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stats(self) -> dict[str, object]:
        """What `obdcore.Prefetch.stats` says; nothing before it has begun."""
        with self._lock:
            return self._prefetch.stats() if self._prefetch is not None else {}

    def _run(self) -> None:
        try:
            data = self._load()
            if not data:
                return
            with self._lock:
                if self._stopped:
                    return
                prefetch = obdcore.Prefetch(
                    self._image, data, workers=self._workers, max_bytes=self._max_bytes
                )
                self._prefetch = prefetch
            # Stopping ends the fetches, but one that hangs may outlive that.
            while not prefetch.wait(_STOP_S) and not self._stopped:
                pass
            self._report(prefetch.stats())
        except OSError as error:
            _log.warning("%s: nothing is fetched in advance: %s", self._name, error.strerror or error)

    def _report(self, stats: dict[str, object]) -> None:
        for note in stats["notes"] if isinstance(stats["notes"], list) else ():
            _log.warning("%s: %s", self._name, note)
        if stats["skipped"]:
            _log.warning("%s: %s entries say nothing about this image", self._name, stats["skipped"])
        if stats["failed"]:
            _log.warning(
                "%s: %s of the ranges could not be fetched in advance; the first: %s",
                self._name,
                stats["failed"],
                stats["first_error"],
            )
        _log.info(
            "%s: %s ranges there, %s bytes fetched", self._name, stats["pieces"], stats["fetched_bytes"]
        )


def load_file(path: str) -> bytes:
    """Trace or list in a file; empty if there is none. Raises `OSError`, also if it is too large."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_TRACE_BYTES + 1)
    except FileNotFoundError:
        return b""
    return check_size(data, path)


def load_layer(blob: Readable, name: str) -> bytes:
    """Trace or list in an acceleration layer, a tar with one file `trace`. Raises `OSError`."""
    if blob.size > MAX_TAR_BYTES:
        raise OSError(errno.E2BIG, f"{name}: {blob.size} bytes are too many for an acceleration layer")
    layer = io.BytesIO(
        b"".join(
            blob.read_at(at, min(_PIECE_BYTES, blob.size - at)) for at in range(0, blob.size, _PIECE_BYTES)
        )
    )
    try:
        with tarfile.open(fileobj=layer, mode="r:") as tar:
            for member in tar:
                if member.isfile() and member.name.removeprefix("./") == TRACE_NAME:
                    file = tar.extractfile(member)
                    return check_size(file.read(MAX_TRACE_BYTES + 1), name) if file else b""
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
        raise OSError(errno.EIO, f"{name}: not a tar that can be read: {error}") from error
    raise OSError(errno.ENOENT, f"{name}: no file {TRACE_NAME} in it: not an acceleration layer")


def check_size(data: bytes, name: str) -> bytes:
    """`data`, unless it is larger than a trace, or a list, may be. Raises `OSError`."""
    limit = MAX_TRACE_BYTES if obdcore.trace_detect(data) else MAX_LIST_BYTES
    if len(data) > limit:
        raise OSError(errno.E2BIG, f"{name}: more than {limit} bytes")
    return data
