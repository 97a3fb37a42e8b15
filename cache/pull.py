"""Layers to this machine as fast as network and disk allow: several at a time, each in several ranges."""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from cache.copy import Blob, Copy, Layer, WrongDigest
from cache.direct import Slot
from cache.download import is_final, one_line
from cache.pipe import MAX_STEP_BYTES, in_order
from cache.verify import Hasher

_log: Final = logging.getLogger("overlaybd.download")

# Layers under way at a time: each has memory for its ranges, and a hash to compute.
MAX_LAYERS: Final = 4
# Attempts at a layer without any progress, after each of which the pause doubles.
_ATTEMPTS: Final = 4
_PAUSE_S: Final = 1.0
# Ranges of one request each: long ones cost little, several keep a long line busy.
_MIN_RANGE_BYTES: Final = 4 << 20
_MAX_RANGE_BYTES: Final = 32 << 20
# What is hashed at a time: it stays in a processor's own cache.
_HASH_BYTES: Final = 256 << 10
_PROGRESS_S: Final = 0.1
# Time for what is under way when the work is interrupted, so that as much as can be is kept.
_STOP_S: Final = 2.0
_BUSY_S: Final = 0.5


@dataclass(slots=True)
class Pulled:
    """What became of a layer."""

    layer: Layer
    state: str = "waiting"
    """`waiting`, `running`, `done`, `failed`."""
    done_bytes: int = 0
    error: str = ""


class _Stopped(Exception):
    """Another part of the work failed, or the user has had enough."""


class Pull:
    """Brings layers to their directories, or those without one into the cache of their blob."""

    def __init__(self, layers: Sequence[Layer], jobs: int) -> None:
        """`jobs` is the number of ranges under way at a time. Raises `ValueError`: see `Hasher`."""
        for layer in layers:
            Hasher(layer.digest)
        self.outcomes: Final = [Pulled(layer) for layer in layers]
        self._jobs: Final = jobs
        self._at_once: Final = max(1, min(MAX_LAYERS, jobs, len(layers)))
        self._stop: Final = threading.Event()

    def run(self, progress: Callable[[int, int], object]) -> bool:
        """Whether all are here in the end. `progress(done, total)` is called often, and may raise."""
        total = sum(each.layer.blob.size for each in self.outcomes)
        ranges = ThreadPoolExecutor(self._jobs, "obd-pull")
        layers = ThreadPoolExecutor(self._at_once, "obd-layer")
        waiting: set[Future[None]] = {layers.submit(self._layer, each, ranges) for each in self.outcomes}
        try:
            while waiting:
                waiting = wait(waiting, timeout=_PROGRESS_S).not_done
                progress(sum(map(_done_bytes, self.outcomes)), total)
        finally:
            self._stop.set()
            # Who is interrupted waits for no range of a registry that says nothing.
            wait(waiting, timeout=_STOP_S)
            layers.shutdown(wait=False, cancel_futures=True)
            ranges.shutdown(wait=False, cancel_futures=True)
        for each in self.outcomes:
            if each.state == "done" and not each.layer.directory:
                self._check_kept(each)
        return all(each.state == "done" for each in self.outcomes)

    def _check_kept(self, pulled: Pulled) -> None:
        missing = sum(length for _, length in pulled.layer.blob.missing(0, pulled.layer.blob.size))
        if missing:
            what = f"{missing} bytes were evicted before the end: the cache is too small for all layers"
            pulled.state, pulled.error = "failed", f"{pulled.layer.url}: {what}"

    def _proceed(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _layer(self, pulled: Pulled, ranges: ThreadPoolExecutor) -> None:
        """Tries until it works, or there is no point."""
        pulled.state = "running"
        failures, reached, wrong = 0, 0, 0
        while not self._stop.is_set():
            try:
                if self._attempt(pulled, ranges):
                    pulled.state, pulled.done_bytes = "done", pulled.layer.blob.size
                    return
                self._stop.wait(_BUSY_S)
            except _Stopped:
                break
            except (OSError, ValueError) as error:
                failures = 1 if pulled.done_bytes > reached else failures + 1
                reached = max(reached, pulled.done_bytes)
                # Those of a registry that lies may come anew and still be wrong: that is no progress.
                wrong += isinstance(error, WrongDigest)
                if is_final(error) or wrong > 1 or failures >= _ATTEMPTS:
                    pulled.state, pulled.error = "failed", one_line(error)
                    return
                _log.info("%s: tried again: %s", pulled.layer.url, one_line(error))
                self._stop.wait(_PAUSE_S * 2.0 ** (failures - 1))
        pulled.state, pulled.error = "failed", "stopped"

    def _attempt(self, pulled: Pulled, ranges: ThreadPoolExecutor) -> bool:
        # A range more than there are jobs for, so that none is idle while the first is hashed and written.
        layer, depth = pulled.layer, self._jobs // self._at_once + 1
        if not layer.directory:
            return self._into_cache(pulled, ranges, depth)

        def pieces(start: int, take: Callable[[], Slot]) -> Iterator[tuple[Slot, int, int]]:
            pulled.done_bytes = start
            for slot, count, offset in in_order(
                ranges, layer.blob.copy_into, start, layer.blob.size, take, depth
            ):
                yield slot, count, offset
                pulled.done_bytes = offset + count

        def fills() -> Iterator[int]:
            for _, end in self._filled(layer.blob, ranges, depth):
                yield end

        return Copy(layer, pieces, fills, slots=depth + 2, slot_bytes=MAX_STEP_BYTES).run(self._proceed)

    def _filled(self, blob: Blob, ranges: ThreadPoolExecutor, depth: int) -> Iterator[tuple[int, int]]:
        """Has the blob in its cache; gives start and end of each range, in order."""
        step = max(_MIN_RANGE_BYTES, min(_MAX_RANGE_BYTES, _rounded(blob.size // self._jobs)))
        starts = iter(range(0, blob.size, step))
        waiting: deque[tuple[int, Future[None]]] = deque()

        def more() -> None:
            if (start := next(starts, None)) is not None:
                waiting.append((start, ranges.submit(blob.fill, start, min(step, blob.size - start))))

        try:
            for _ in range(depth):
                more()
            while waiting:
                start, filled = waiting.popleft()
                filled.result()
                more()
                yield start, min(start + step, blob.size)
        finally:
            for _, filled in waiting:
                filled.cancel()

    def _into_cache(self, pulled: Pulled, ranges: ThreadPoolExecutor, depth: int) -> bool:
        blob, hasher = pulled.layer.blob, Hasher(pulled.layer.digest)
        buffer = memoryview(bytearray(_HASH_BYTES))
        for start, end in self._filled(blob, ranges, depth):
            for offset in range(start, end, _HASH_BYTES):
                piece = buffer[: min(_HASH_BYTES, end - offset)]
                blob.readinto_at(piece, offset)
                hasher.update(piece)
                self._proceed()
        if not hasher.right:
            blob.distrust(0, blob.size)
            what = f"{pulled.layer.url}: the registry's bytes are {hasher.found}, not {pulled.layer.digest}"
            raise WrongDigest(errno.EIO, what)
        return True


def _done_bytes(pulled: Pulled) -> int:
    layer = pulled.layer
    if (layer.is_media or not layer.directory) and pulled.state == "running":
        pulled.done_bytes = layer.blob.size - sum(
            length for _, length in layer.blob.missing(0, layer.blob.size)
        )
    return pulled.done_bytes


def _rounded(count: int) -> int:
    """To whole chunks, whatever their size."""
    return -(-count // _MIN_RANGE_BYTES) * _MIN_RANGE_BYTES
