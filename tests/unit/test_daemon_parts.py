"""The parts of the daemon that need no kernel: replies, order of work, configuration strings, the lock."""

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

import tcmu
from obd.daemon.answer import Answer, Owed
from obd.daemon.lock import InstanceLock
from obd.daemon.notify import Notifier
from obd.daemon.roster import errno_of
from obd.daemon.target import Ids, Target
from obd.daemon.work import Job, Pool, Strand
from obd.errors import ObdError

END_S = 20.0
DEVICE = tcmu.Device(3, tcmu.Backstore(1, "vol"), "overlaybd//a/config.json")
EVENT = tcmu.Event(tcmu.Change.ADDED, 7, DEVICE)


class Link:
    """What the kernel would be told."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def reply(self, event: tcmu.Event, error: int = 0) -> None:
        self.told.append(error)
        if error == errno.ENODEV:
            raise OSError(errno.ENODEV, "nobody waits")


def answer(link: Link, limit_s: float = END_S) -> Answer:
    return Answer(cast(tcmu.Link, link), EVENT, limit_s)


def test_the_kernel_is_told_once() -> None:
    one = answer(link := Link())
    assert one.give(errno.EACCES)
    assert not one.give()
    assert link.told == [errno.EACCES]
    assert answer(link).give(errno.ENODEV)  # that nobody waits is no failure


def test_what_is_overdue_is_dealt_with_once() -> None:
    owed, link = Owed(), Link()
    late, early, given = answer(link, -1), answer(link), answer(link, -1)
    given.give()
    for one in (late, early, given):
        owed.add(one, lambda answer: answer.give(errno.ETIMEDOUT))
    assert owed.waiting() == [late, early]
    owed.check()
    owed.check()
    assert link.told == [0, errno.ETIMEDOUT]
    assert owed.waiting() == [early]


def test_a_strand_keeps_the_order_through_pools_and_failures(caplog: pytest.LogCaptureFixture) -> None:
    strand, pools, done = Strand(), [Pool("a", 2), Pool("b", 2)], threading.Event()
    seen = []

    def fails() -> None:
        raise ValueError("as it should")

    for number in range(20):
        strand.submit(pools[number % 2], lambda number=number: seen.append(number))  # type: ignore[misc]
        strand.submit(pools[0], fails)
    strand.submit(pools[1], done.set)
    assert done.wait(END_S)
    assert seen == list(range(20))
    assert "as it should" in caplog.text


def test_a_pool_is_bounded_and_ends_its_threads() -> None:
    pool, gate, running = Pool("test", 2), threading.Event(), threading.Semaphore(0)

    def job() -> None:
        running.release()
        gate.wait(END_S)

    jobs: list[Job] = [job] * 5
    for each in jobs:
        pool.submit(each)
    for _ in range(2):
        assert running.acquire(timeout=END_S)
    assert pool.busy == 2
    assert not running.acquire(blocking=False)
    threads = [thread for thread in threading.enumerate() if thread.name == "test"]
    gate.set()
    for thread in threads:
        thread.join(END_S)
    assert pool.busy == 0
    assert sum(running.acquire(blocking=False) for _ in jobs) == 3


def test_a_pool_outlives_a_job_in_which_the_core_panics(caplog: pytest.LogCaptureFixture) -> None:
    class Panic(BaseException):
        """As PyO3's, which is no `Exception`."""

    def panics() -> None:
        raise Panic("so it did")

    pool, done = Pool("test", 1), threading.Event()
    pool.submit(panics)
    pool.submit(done.set)
    assert done.wait(END_S)
    assert "so it did" in caplog.text


@pytest.mark.parametrize(
    ("config", "path", "dev_id"),
    [
        ("overlaybd//var/lib/x/config.v1.json", "/var/lib/x/config.v1.json", ""),
        ("overlaybd/rel/x.json", "rel/x.json", ""),
        ("overlaybd//a;7", "/a", "7"),
        ("overlaybd//a;7;8", "/a", "7;8"),
        ("overlaybd//a;", "/a", ""),
        ("overlaybd//a b", "/a b", ""),
    ],
)
def test_what_a_configuration_string_says(config: str, path: str, dev_id: str) -> None:
    assert Target.of(tcmu.Device(0, DEVICE.backstore, config)) == Target(path, dev_id)


@pytest.mark.parametrize("config", ["overlaybd", "overlaybd/", "overlaybd/;7"])
def test_a_configuration_string_names_a_path(config: str) -> None:
    with pytest.raises(ObdError):
        Target.of(tcmu.Device(0, DEVICE.backstore, config))


def test_an_id_has_one_owner() -> None:
    ids, first, second = Ids(), object(), object()
    ids.take("7", first)
    ids.take("", first)
    ids.take("", second)
    with pytest.raises(ObdError, match="duplicated dev id: 7"):
        ids.take("7", second)
    ids.free(second)
    with pytest.raises(ObdError):
        ids.take("7", second)
    ids.free(first)
    ids.take("7", second)


def test_a_creator_hears_of_the_cause() -> None:
    error = ObdError("io", "cannot be read")
    assert errno_of(error) == errno.EIO
    error.__cause__ = ConnectionRefusedError(errno.ECONNREFUSED, "")
    assert errno_of(error) == errno.ECONNREFUSED
    # Which would have it tried again for ever.
    assert errno_of(BlockingIOError(errno.EAGAIN, "")) == errno_of(ObdError("interrupted", "")) == errno.EIO


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(tmp_path))
    yield tmp_path


def test_one_process_has_the_lock(place: Path) -> None:
    first, second = InstanceLock(), InstanceLock()
    first.acquire()
    with pytest.raises(ObdError, match=f"another daemon is running, process {os.getpid()}"):
        second.acquire()
    first.release()
    assert second.try_acquire()
    second.release()


def test_the_service_manager_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place / "notify"))
        manager.settimeout(END_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(place / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        notifier = Notifier()
        notifier.status("well")
        notifier.status("well")
        notifier.alive()
        notifier.alive()
        notifier.send("READY=1", "MAINPID=7")
        assert [manager.recv(100) for _ in range(3)] == [b"STATUS=well", b"WATCHDOG=1", b"READY=1\nMAINPID=7"]
        notifier.close()
        monkeypatch.setenv("WATCHDOG_PID", "1")
        notifier = Notifier()
        notifier.alive()  # it is another process that is watched
        notifier.send("STOPPING=1")
        assert manager.recv(100) == b"STOPPING=1"
    notifier.send("READY=1")  # nobody listens
    notifier.close()
