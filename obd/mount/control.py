"""Mounting and unmounting an image, from any process."""

import os
import time
from dataclasses import dataclass
from typing import Final

from obd.attach.fuse import FuseWay
from obd.attach.process import Request, start, until_ended
from obd.errors import ObdError
from obd.mount import filesystem
from obd.state import StateDirectory

KIND: Final = "mounts"

# How long unmounting waits for the keeper to flush and end. A disk that needs longer is not one to write to.
FLUSH_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Mounted:
    """A new mount: its loop device, and what the user should know ("" if nothing)."""

    loop: str
    warning: str


def mount_image(
    config: str, directory: str, *, service: str | None = None, read_only: bool = True, options: str = ""
) -> Mounted:
    """Mounts the image of the configuration file `config` at `directory`; a background process keeps it.

    `service` is the path of a service configuration, None that of the host; `options` go to mount(8). Raises
    `OSError`; then nothing is left behind.
    """
    point = os.path.realpath(directory)
    if not os.path.isdir(point):
        raise ObdError("not-found" if not os.path.exists(point) else "invalid", "not a directory", directory)
    request = Request(
        KIND,
        point,
        os.path.abspath(config),
        os.path.abspath(service) if service else None,
        "fuse",
        read_only=read_only,
        directory=point,
        options=options,
    )
    state = StateDirectory(KIND, point)
    if not state.acquire():
        raise ObdError("busy", "an image is mounted here already (obd umount takes it away)", directory)
    try:
        if state.read() is not None:
            _clean_up(state, point)  # what a crashed keeper left
            if not state.acquire():
                raise ObdError("busy", "an image is being mounted here", directory)
        report = start(request, state)
    finally:
        state.release()
    return Mounted(report["path"], report["warning"])


def unmount_image(directory: str) -> bool:
    """Unmounts the image at `directory` and waits until its upper is flushed. False if there was none.

    Raises `ObdError`: "busy" if it is in use, "io" if the last writes could not be made durable.
    """
    point = os.path.realpath(directory)
    state = StateDirectory(KIND, point)
    if not os.path.exists(state.path):
        return False
    lost: list[str] = []
    there = True  # unless neither keeper nor state is
    with until_ended(state):
        mine = _take_over(state, point, lost)
    if mine:
        try:
            known = state.read()
            _clean_up(state, point)
        finally:
            state.release()
        there = known is not None
        lost += [known.error] if known is not None and known.error else []
    if lost:
        raise ObdError("io", f"the last writes may be lost: {'; '.join(lost)}", directory)
    return there


def _take_over(state: StateDirectory, point: str, lost: list[str]) -> bool:
    """Unmounts, waits until no keeper holds the lock, and takes it. False if the keeper has done it all.

    A mount that is being set up meanwhile is unmounted as soon as it is there. What is `lost` is added.
    """
    deadline = time.monotonic() + FLUSH_TIMEOUT_S
    pause_s = 0.002
    while True:
        if filesystem.is_mount_point(point) and state.read() is not None:
            lost += filter(None, [filesystem.unmount(point)])
        acquired = state.acquire_existing()
        if acquired is not False:
            return acquired is True
        if time.monotonic() > deadline:
            raise ObdError("timed-out", f"not flushed after {FLUSH_TIMEOUT_S:g} s; see {state.log}", point)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.1)


def _clean_up(state: StateDirectory, point: str) -> None:
    """Removes what a keeper left that did not end in order. The lock must be held; it is released."""
    if filesystem.is_mount_point(point):
        filesystem.unmount_lazily(point)
    FuseWay().clear(state)
    state.remove()
    state.release()
