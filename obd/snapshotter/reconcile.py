"""Comparing what is remembered with what is there: after a crash, after a reboot, and now and then."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from obd import attach as attachments
from obd.errors import line_of
from obd.snapshotter.errors import SnapshotError

if TYPE_CHECKING:
    from obd.snapshotter.snapshots import Snapshots

_log: Final = logging.getLogger("overlaybd.snapshotter")


def reconcile(snapshots: Snapshots) -> None:
    """Repairs what can be without touching what is used, and says the rest. Never raises."""
    for step in (_serve_again, _forget_devices, _forget_directories, _report_missing):
        try:
            step(snapshots)
        except Exception as error:
            _log.error("looking for what is wrong: %s", line_of(error))


def servers(snapshots: Snapshots) -> list[int]:
    """The processes that serve our devices."""
    ours = (each for each in attachments.attachments() if _number(snapshots, each.config) >= 0)
    return [each.pid for each in ours if each.pid and not each.dead]


def _serve_again(snapshots: Snapshots) -> None:
    """Devices whose server died are served again, under their users."""
    known = {each.id for each in snapshots.records.all()}
    for attachment in attachments.attachments():
        number = _number(snapshots, attachment.config)
        if number in known and attachment.dead:
            _log.warning(
                "snapshot %d: nobody serves %s any more; it is served again", number, attachment.path
            )
            snapshots.devices.serve_again_soon(number, rw=not attachment.read_only)


def _forget_devices(snapshots: Snapshots) -> None:
    """Devices of snapshots that are no more are taken away, unless somebody uses them."""
    known = {each.id for each in snapshots.records.all()}
    for attachment in attachments.attachments():
        number = _number(snapshots, attachment.config)
        if number < 0 or number in known:
            continue
        with snapshots.devices.turn(number):
            if not _is_known(snapshots, number):
                _log.warning("%s is a device of snapshot %d, which is no more", attachment.path, number)
                _release(snapshots, number)


def _release(snapshots: Snapshots, number: int) -> bool:
    """Whether a snapshot has no device any more."""
    try:
        snapshots.devices.release(number)
    except SnapshotError as error:
        _log.error("%s", error)
        return False
    return True


def _forget_directories(snapshots: Snapshots) -> None:
    """Directories of snapshots that are no more are deleted, unless something is mounted there."""
    known = {each.id for each in snapshots.records.all()}
    for number in set(snapshots.layout.numbers()) - known:
        with snapshots.devices.turn(number):
            if _is_known(snapshots, number):
                continue
            # Not within a transaction: this may take long, and calls would wait for it.
            if not _release(snapshots, number):
                continue  # its device is found by the directory's name
            with snapshots.records.transaction():
                if _is_known(snapshots, number):
                    continue
                try:
                    snapshots.layout.retire(number)
                except OSError as error:
                    _log.error("directory of snapshot %d, which is no more: %s", number, error)
    snapshots.cleanup()


def _report_missing(snapshots: Snapshots) -> None:
    there = set(snapshots.layout.numbers())
    for snapshot in snapshots.records.all():
        if snapshot.id not in there and _is_known(snapshots, snapshot.id):
            what = "snapshot %d (%s): its directory is gone; remove it, or the image, by containerd"
            _log.error(what, snapshot.id, snapshot.name)


def _is_known(snapshots: Snapshots, number: int) -> bool:
    return any(each.id == number for each in snapshots.records.all())


def _number(snapshots: Snapshots, config: str) -> int:
    """The snapshot whose device has a configuration, -1 if it is none of ours."""
    root = os.path.realpath(snapshots.layout.snapshots) + os.sep
    name = config.removeprefix(root).partition(os.sep)[0]
    ours = config.startswith(root) and name.isdecimal()
    return int(name) if ours and config == os.path.realpath(snapshots.layout.config(int(name))) else -1
