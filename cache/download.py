"""Background download: a device's remote layers become local files, one by one, while it is in use."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cache.copy import Copy, Layer, WrongDigest
from cache.direct import Slot
from cache.pipe import MAX_STEP_BYTES, Steps
from cache.rate import Rate

_log: Final = logging.getLogger("overlaybd.download")

# Layers that a process downloads at a time, whatever the number of its devices: bounds memory and load.
_TURNS: Final = threading.BoundedSemaphore(4)
# Steps in memory: one being fetched, one being written.
_SLOTS: Final = 2
# First and longest pause after a failure that may pass.
_PAUSE_S: Final = 1.0
_MAX_PAUSE_S: Final = 60.0
# What an attempt of the configuration stands for where a failure may pass: so long without a byte.
ATTEMPT_S: Final = 300.0
# How often to look whether somebody else's download has ended.
_BUSY_S: Final = 1.0
# Time that closing a device waits for a step; a worker that is later than that ends by itself.
_STOP_S: Final = 5.0
# Failures that trying again does not mend.
_FINAL: Final = frozenset({"not-found", "denied", "invalid", "out-of-bounds", "unsupported", "read-only"})
_FINAL_ERRORS: Final = (FileNotFoundError, NotADirectoryError, PermissionError, ValueError)


@dataclass(frozen=True, slots=True)
class Settings:
    """When, how fast, how often. Times in seconds."""

    delay_s: float
    delay_extra_s: float
    bytes_per_s: int
    attempts: int
    step_bytes: int


@dataclass(frozen=True, slots=True)
class LayerProgress:
    """How far a layer's download is."""

    position: int
    digest: str
    state: str
    """`waiting`, `running`, `busy` (another downloads it), `paused` (after a failure), `done`, `failed`."""
    done_bytes: int
    size_bytes: int
    error: str
    is_target: bool
    """See `Layer.is_target`."""


class _Stopped(Exception):
    """The device closes."""


class _Job:
    """A layer, and how its download has fared."""

    def __init__(self, layer: Layer, copy: Copy) -> None:
        self.layer: Final = layer
        self.copy: Final = copy
        self.state = "waiting"
        self.error = ""
        self.not_before = 0.0
        self.failures = 0
        self.failing_since = 0.0
        self.reached = 0
        self.wrong = 0


class Downloads:
    """The downloads of one device. `name` is its name in log lines."""

    def __init__(self, name: str, layers: Sequence[Layer], settings: Settings) -> None:
        """Raises `ValueError`: see `Hasher`."""
        self._name: Final = name
        self._settings: Final = settings
        self._stop: Final = threading.Event()
        self._rate: Final = Rate(settings.bytes_per_s, self._stop.wait)
        self._jobs: Final = [_Job(layer, self._copy(layer)) for layer in layers]
        self._thread: Final = threading.Thread(target=self._work, name="obd-download", daemon=True)

    def start(self) -> None:
        """Begins; the first byte comes after the delay."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the work after the step that is under way. What has come is kept for the next time."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)

    def join(self) -> None:
        """Waits until every layer is in place or given up."""
        self._thread.join()

    def progress(self) -> list[LayerProgress]:
        """How far each layer is."""
        return [
            LayerProgress(
                job.layer.position,
                job.layer.digest,
                job.state,
                job.copy.done,
                job.layer.blob.size,
                job.error,
                job.layer.is_target,
            )
            for job in self._jobs
        ]

    def _copy(self, layer: Layer) -> Copy:
        def pieces(start: int, take: Callable[[], Slot]) -> Iterator[tuple[Slot, int, int]]:
            return self._steps(layer, start, take)

        def fills() -> Iterator[int]:
            return self._fills(layer)

        return Copy(layer, pieces, fills, slots=_SLOTS, slot_bytes=MAX_STEP_BYTES)

    def _steps(self, layer: Layer, at: int, take: Callable[[], Slot]) -> Iterator[tuple[Slot, int, int]]:
        steps, size = Steps(self._settings.step_bytes, self._settings.bytes_per_s), layer.blob.size
        while at < size:
            slot, count = take(), min(steps.bytes, size - at)
            begin = time.monotonic()
            layer.blob.copy_into(slot.view[:count], at)
            steps.took(count, time.monotonic() - begin)
            yield slot, count, at
            at += count
            self._rate.spend(count)

    def _fills(self, layer: Layer) -> Iterator[int]:
        at, blob = 0, layer.blob
        steps = Steps(self._settings.step_bytes, self._settings.bytes_per_s)
        while at < blob.size:
            count = min(steps.bytes, blob.size - at)
            missing = sum(length for _, length in blob.missing(at, count))
            if missing:
                begin = time.monotonic()
                blob.fill(at, count)
                steps.took(count, time.monotonic() - begin)
            at += count
            yield at
            self._rate.spend(missing)

    def _proceed(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _work(self) -> None:
        extra = self._settings.delay_extra_s if self._settings.delay_extra_s > 0 else 30
        self._stop.wait(max(0.0, self._settings.delay_s) + random.random() * extra)
        waiting = list(self._jobs)
        while waiting and not self._stop.is_set():
            now = time.monotonic()
            job = min(waiting, key=lambda job: max(job.not_before, now))
            if job.not_before > now:
                self._stop.wait(job.not_before - now)
                continue
            waiting.remove(job)
            # Without a turn yet, look again soon whether to stop.
            if not _TURNS.acquire(timeout=_BUSY_S) or not self._attempt(job):
                waiting.append(job)

    def _attempt(self, job: _Job) -> bool:
        """One attempt, in a turn that it gives back; true if that was the last."""
        try:
            job.state, job.error = "running", ""
            begin = time.monotonic()
            if not job.copy.run(self._proceed):
                job.state, job.not_before = "busy", time.monotonic() + _BUSY_S
                return False
            self._switch(job, time.monotonic() - begin)
            return True
        except _Stopped:
            job.state = "waiting"
            return True
        except WrongDigest as error:
            job.wrong, job.reached = job.wrong + 1, 0
            _log.warning("%s: layer %d: %s", self._name, job.layer.position, error.strerror)
            return self._give_up(job, error) if job.wrong > 1 else False
        except (OSError, ValueError) as error:
            return self._give_up(job, error) if is_final(error) else self._pause(job, error)
        except Exception as error:
            _log.exception("%s: layer %d: download", self._name, job.layer.position)
            return self._give_up(job, error)
        finally:
            _TURNS.release()

    def _switch(self, job: _Job, took: float) -> None:
        layer = job.layer
        where = f"{self._name}: layer {layer.position}"

        def on_failure(why: str) -> None:
            _log.error("%s: the local file failed, reads go to the registry again: %s", where, why)

        if layer.blob.local is None:
            layer.blob.switch_to(job.copy.path, on_failure)
            _log.info("%s: in place after %.1f s, read from %s from now on", where, took, job.copy.path)
        job.state = "done"

    def _give_up(self, job: _Job, error: Exception) -> bool:
        job.state, job.error = "failed", one_line(error)
        _log.error(
            "%s: layer %d is not downloaded, it stays remote: %s", self._name, job.layer.position, job.error
        )
        return True

    def _pause(self, job: _Job, error: Exception) -> bool:
        """After a failure that may pass: waits longer each time, gives up after long without a byte."""
        now = time.monotonic()
        if job.failures == 0 or job.copy.done > job.reached:
            job.failures, job.failing_since = 0, now
        job.reached = job.copy.done
        if now - job.failing_since > ATTEMPT_S * max(1, self._settings.attempts):
            return self._give_up(job, error)
        pause = min(_MAX_PAUSE_S, _PAUSE_S * 2.0**job.failures) * random.uniform(0.5, 1)
        job.failures = min(job.failures + 1, 16)
        job.state, job.error, job.not_before = "paused", one_line(error), now + pause
        level = logging.WARNING if job.failures == 1 else logging.DEBUG
        where = f"{self._name}: layer {job.layer.position}: download stopped at {job.copy.done}"
        _log.log(level, "%s, goes on when it can: %s", where, job.error)
        return False


def is_final(error: Exception) -> bool:
    """Whether trying again is of no use."""
    kind = getattr(error, "kind", None)
    return kind in _FINAL if kind is not None else isinstance(error, _FINAL_ERRORS)


def one_line(error: Exception) -> str:
    """The failure in one line, with the file it concerns."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    name = getattr(error, "filename", None)
    return " ".join((f"{name}: {text}" if name else text).split("\n"))
