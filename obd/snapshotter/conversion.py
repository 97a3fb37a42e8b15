"""Ordinary layers of images that are used become layers of ours in the background, beside what was unpacked.

The first container of an image leaves a mark at the image's topmost snapshot, which survives a crash. One
image at a time is converted, each layer once for all images that have it. When all are there, the topmost
snapshot gets the configuration of a device: containers made from then on use it, others stay as they are.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

from obd.errors import ObdError, line_of
from obd.snapshotter.wire import COMMITTED

if TYPE_CHECKING:
    from obd.snapshotter.records import Snapshot
    from obd.snapshotter.snapshots import Snapshots

_log: Final = logging.getLogger("overlaybd.snapshotter")

# An image that takes longer than this will not be done.
TIMEOUT_S: Final = 6 * 3600.0
_MAX_SAID: Final = 500


class Conversion:
    """The thread that has images converted."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots: Final = snapshots
        self._wake: Final = threading.Event()
        self._stopped: Final = threading.Event()
        self._given_up: Final[set[int]] = set()
        self._job: subprocess.Popen[bytes] | None = None
        self._lock: Final = threading.Lock()
        self._thread: Final = threading.Thread(target=self._run, name="conversion", daemon=True)

    def start(self) -> None:
        """Starts the thread, which begins with what an earlier process left."""
        self._snapshots.on_marked = self._wake.set
        self._wake.set()
        self._thread.start()

    def stop(self) -> None:
        """Ends it, at once, if it was started."""
        with self._lock:
            self._stopped.set()
            if self._job is not None:
                self._job.kill()  # the next process goes on after the last layer that is whole
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait()
            self._wake.clear()
            for snapshot in self._snapshots.records.all():
                if self._stopped.is_set():
                    return
                if self._is_wanted(snapshot):
                    try:
                        self._convert(snapshot)
                    except Exception as error:
                        self._given_up.add(snapshot.id)
                        _log.warning("snapshot %d stays unpacked: %s", snapshot.id, line_of(error))

    def _is_wanted(self, snapshot: Snapshot) -> bool:
        marked = snapshot.kind == COMMITTED and os.path.exists(self._snapshots.layout.wish(snapshot.id))
        return (
            marked and snapshot.id not in self._given_up and not self._snapshots.images.is_block(snapshot.id)
        )

    def _convert(self, top: Snapshot) -> None:
        layout = self._snapshots.layout
        chain = [top, *self._snapshots.records.chain(top.name)]
        layers = [(layout.fs(each.id), layout.converted(each.id)) for each in reversed(chain)]
        _log.info("snapshot %d: its %d layers are converted", top.id, len(layers))
        said = self._carry_out(layers)
        with self._snapshots.devices.turn(top.id), self._snapshots.records.transaction():
            if self._stopped.is_set() or not self._snapshots.records.has(top.id):
                return
            if said is not None:
                raise ObdError("io", said)
            newest = self._snapshots.records.newest()
            self._snapshots.images.write_converted(top.id, [path for _, path in layers], newest)
        _log.info("snapshot %d: containers made from now on use a device", top.id)

    def _carry_out(self, layers: list[tuple[str, str]]) -> str | None:
        """Has the layers made, by a process that the machine's other work comes before; why not, if not."""
        with self._lock:
            if self._stopped.is_set():
                return None
            job = self._job = subprocess.Popen(
                [sys.executable, "-P", "-m", "obd.snapshotter.conversion_job"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        try:
            said = job.communicate(json.dumps(layers).encode(), TIMEOUT_S)[1]
        except subprocess.TimeoutExpired:
            job.kill()
            job.communicate()
            return f"not done after {TIMEOUT_S:g} s"
        finally:
            self._job = None
        if job.returncode == 0:
            return None
        lines = said.decode("utf-8", "replace").splitlines() or [f"ended with {job.returncode}"]
        return lines[-1][:_MAX_SAID]
