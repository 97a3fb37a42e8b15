"""What `obd.ublk` does, by the means of `obd.attach`."""

import os
import time
from typing import Any, Final

import obdcore
from obd.attach.control import FLUSH_TIMEOUT_S, KIND, attach_image, detach_image
from obd.attach.process import Request, start
from obd.attach.ublk import PREFIX, UblkWay, info_of, is_alive, number_of
from obd.attach.users import claim
from obd.config import load_image
from obd.errors import ObdError
from obd.state import State, StateDirectory, state_directories
from obd.ublk import Disk

LOOK_S: Final = 0.02

# How long a process that was killed may take to end.
DYING_S: Final = 1.0


def add_disk(config: str, service: str | None, read_only: bool | None, settings: dict[str, int]) -> str:
    """See `obd.ublk.add`."""
    if read_only is None:
        read_only = not load_image(config).writable
    return attach_image(config, "ublk", not read_only, service, settings).path


def recover_disk(number: int) -> str:
    """See `obd.ublk.recover`."""
    path = f"{PREFIX}{number}"
    place = _place_of(path)
    if place is None:
        raise ObdError("not-found", "no disk that overlaybd-ublk has added", path)
    _acquire(place, path)
    try:
        known = place.read()
        if known is None or UblkWay().find(place) != path:
            raise ObdError("not-found", "the kernel has no such disk any more", path)
        request = Request(
            KIND,
            place.key,
            known.config,
            known.service or None,
            "ublk",
            known.read_only,
            why=known.why,
            again=True,
        )
        start(request, place)
    finally:
        place.release()
    return path


def _acquire(place: StateDirectory, path: str) -> None:
    """Takes the lock. A server that was killed just now holds it for a moment still."""
    deadline = time.monotonic() + DYING_S
    while not place.acquire():
        if time.monotonic() > deadline:
            known = place.read()
            raise ObdError("busy", f"is served by process {known.pid if known else 0}", path)
        time.sleep(LOOK_S)


def remove_disk(number: int, force: bool) -> None:
    """See `obd.ublk.remove`."""
    path = f"{PREFIX}{number}"
    place = _place_of(path)
    if place is None:
        _remove_foreign(path, force)
        return
    if force and info_of(path):
        obdcore.ublk_stop(number)
        _wait_for_keeper(place)
    if os.path.exists(place.path):
        detach_image(place.key)  # not by its path, by which a stopped disk is nobody's


def _wait_for_keeper(place: StateDirectory) -> None:
    """Returns when the keeper of a disk that was stopped has seen that, and ended."""
    deadline = time.monotonic() + FLUSH_TIMEOUT_S
    while place.acquire_existing() is False:
        if time.monotonic() > deadline:
            what = f"not flushed after {FLUSH_TIMEOUT_S:g} s; see {place.log}"
            raise ObdError("timed-out", what, place.key)
        time.sleep(LOOK_S)
    place.release()


def _remove_foreign(path: str, force: bool) -> None:
    """Removes a device that is not ours, if its server has died."""
    info = info_of(path)
    if info is None:
        raise ObdError("not-found", "no such ublk device", path)
    if is_alive(info["pid"]) and not force:
        raise ObdError("denied", f"not ours: process {info['pid']} serves it", path)
    if info["state"] != "dead" and not force:
        os.close(claim(path))
    obdcore.ublk_delete(number_of(path))


def list_disks() -> list[Disk]:
    """See `obd.ublk.devices`."""
    ours = {known.path: known for known in (place.read() for place in _places()) if known}
    found = []
    for number in obdcore.ublk_numbers():
        path = f"{PREFIX}{number}"
        if info := info_of(path):  # else it has gone meanwhile
            found.append(_disk(info, ours.get(path)))
    return found


def _disk(info: dict[str, Any], known: State | None) -> Disk:
    pid = info["pid"] if is_alive(info["pid"]) else 0
    states = {"dead": "stopped", "live": "live" if pid else "dead"}
    return Disk(
        number=info["number"],
        path=info["path"],
        state=states.get(info["state"], "dead"),
        config=known.config if known else "",
        read_only=info["read_only"],
        size_bytes=info["size"] or 0,
        queues=info["queues"],
        depth=info["depth"],
        pid=pid,
    )


def _places() -> list[StateDirectory]:
    return state_directories(KIND)


def _place_of(path: str) -> StateDirectory | None:
    """The state of a disk of ours."""
    for place in _places():
        known = place.read()
        if known is not None and known.path == path:
            return place
    return None
