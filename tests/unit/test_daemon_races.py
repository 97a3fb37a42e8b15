"""What meets at a bad moment around the daemon: the order of it is made here, without a kernel."""

import ctypes
import errno
import os
import threading
from pathlib import Path
from typing import Any, cast

import pytest

import tcmu
from obd.daemon import handover
from obd.daemon.answer import Answer
from obd.daemon.daemon import Daemon
from obd.daemon.roster import Roster
from obd.daemon.served import Served
from obd.daemon.standstill import Standstill
from obd.daemon.work import Job, Pool
from obd.overview import Overview
from obd.service import Service
from tcmu import configfs, lookup

END_S = 20.0
DEVICE = tcmu.Device(3, tcmu.Backstore(1, "vol"), "overlaybd//a/config.json")


class Jobs:
    """A pool whose threads get on in an order of the test's choice."""

    def __init__(self) -> None:
        self.waiting: list[Job] = []

    def submit(self, job: Job) -> None:
        self.waiting.append(job)


class Blocked:
    """A device that remembers whether the kernel keeps requests from it."""

    name = "user_1/vol"
    ring = object()
    active = 0

    def __init__(self) -> None:
        self.device = self.backstore = self
        self.blocked = False

    def block(self) -> None:
        self.blocked = True

    def unblock(self) -> None:
        self.blocked = False


class Link:
    """A link to a kernel that announces a removal when the daemon does not look any more."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def receive(self) -> list[tcmu.Event]:
        return []

    def leave(self) -> list[tcmu.Event]:
        return [event(tcmu.Change.REMOVED, 3), event(tcmu.Change.ADDED, 4)]

    def reply(self, event: tcmu.Event, error: int = 0) -> None:
        self.told.append((event.device_id, error))


class Doorbell:
    """At which nobody asks."""

    def answer(self) -> None:
        return None


def event(change: tcmu.Change, number: int) -> tcmu.Event:
    return tcmu.Event(change, number, DEVICE)


def test_an_ending_daemon_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(tmp_path))
    (tmp_path / "service.json").write_text("{}")
    daemon, link = Daemon(Service(str(tmp_path / "service.json"))), Link()
    daemon._link, daemon._doorbell = cast(tcmu.Link, link), cast(handover.Doorbell, Doorbell())
    for change, number in ((tcmu.Change.ADDED, 1), (tcmu.Change.REMOVED, 2)):
        answer = Answer(cast(tcmu.Link, link), event(change, number), END_S)
        daemon._owed.add(answer, lambda answer: None)
    daemon._leave()
    daemon.notifier.close()
    assert link.told == [(1, errno.EAGAIN), (2, 0), (3, 0), (4, errno.EAGAIN)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_no_device_stays_blocked_after_a_standstill(order: tuple[int, int]) -> None:
    device, jobs = Blocked(), Jobs()
    still = Standstill([cast(Served, device)], cast(Pool, jobs))
    still.end()
    for number in order:
        jobs.waiting[number]()
    assert not device.blocked


def all_done(roster: Roster) -> None:
    done = threading.Event()
    roster._strand(DEVICE.minor).submit(roster._closers, done.set)
    assert done.wait(END_S)


def test_a_ring_that_is_served_is_not_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tcmu.Device] = []
    monkeypatch.setattr(tcmu, "take_over", lambda device, serve: taken.append(device))
    roster = Roster(cast(Service, None), cast(Overview, None))
    roster.take_over(DEVICE)
    (served,) = roster.all()
    all_done(roster)
    assert taken == [DEVICE]
    served.ring = cast(Any, object())
    roster._try(served, 1)
    all_done(roster)
    assert taken == [DEVICE]


def test_a_backstore_is_made_while_the_last_other_one_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configfs, "TARGET", tmp_path)
    above, make = tmp_path / "core/user_1", Path.mkdir
    removed: list[Path] = []
    above.parent.mkdir()

    def mkdir(path: Path, *args: Any, **options: Any) -> None:
        if path.parent == above and not removed:
            above.rmdir()
            removed.append(above)
        make(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(FileNotFoundError, match="control"):  # there is no kernel: the next step fails
        tcmu.Backstore(1, "vol").create("overlaybd/x")
    assert removed


def test_a_mount_elsewhere_does_not_hide_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = lookup._libc

    class Busy:
        calls = 0

        def syscall(self, *words: Any) -> int:
            self.calls += 1
            if self.calls < 4:
                ctypes.set_errno(errno.EAGAIN)
                return -1
            return int(real.syscall(*words))

    monkeypatch.setattr(lookup, "_libc", Busy())
    (tmp_path / "here").mkdir()
    os.close(lookup.open_cached(tmp_path, "here", os.O_PATH | os.O_DIRECTORY))
