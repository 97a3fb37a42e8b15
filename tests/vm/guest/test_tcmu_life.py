"""How disks on TCMU come and go, and what they survive: slow opens, daemons that die, removal in use."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from select import select

import pytest

import tcmu
from obd.daemon.kernel import prepare
from tests.e2e.disks import MIB, tool
from tests.vm.guest.tcmu_disk import (
    HBA,
    Daemon,
    Disk,
    Gate,
    attach,
    attached,
    configured,
    of_zeros,
    running,
)
from tests.vm.guest.test_tcmu import fio, stored, write

SIZE = 16 * MIB
END_S = 120.0


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        yield daemon


def room(directory: Path, name: str) -> Path:
    """A directory in a directory."""
    (path := directory / name).mkdir()
    return path


def sectors(disk: Disk) -> int:
    """Sectors written to the disk so far."""
    return int(disk.setting("stat").split()[6])


class Load:
    """Disks that fio writes and verifies, with options of a test; again if need be, until the end."""

    def __init__(self, disks: list[Disk], *options: str) -> None:
        self._disks = disks
        self._options = options
        self._running = [self._start(disk) for disk in disks]

    def write(self, count: int) -> None:
        """Returns when `count` more sectors have been written to one of the disks."""
        before = [sectors(disk) for disk in self._disks]
        while all(sectors(disk) < was + count for disk, was in zip(self._disks, before, strict=True)):
            for number, disk in enumerate(self._disks):
                # One that had to wait makes up for it: it may end long before its rate says so.
                if self._running[number].poll() is not None:
                    self._end(self._running[number])
                    self._running[number] = self._start(disk)
            time.sleep(0.005)

    def end(self) -> None:
        """Returns when all that was written is verified."""
        for one in self._running:
            self._end(one)

    def _start(self, disk: Disk) -> subprocess.Popen[bytes]:
        command = [*fio(disk), *self._options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    @staticmethod
    def _end(one: subprocess.Popen[bytes]) -> None:
        said, _ = one.communicate(timeout=END_S)
        assert one.returncode == 0, said.decode()


def test_a_slow_open_delays_no_other(tmp_path: Path, daemon: Daemon) -> None:
    slow = of_zeros(room(tmp_path, "slow"), MIB)
    others = {f"vol{n}": of_zeros(room(tmp_path, str(n)), MIB) for n in range(20)}
    with ThreadPoolExecutor(21) as pool, Gate(slow) as gate:
        waits = pool.submit(attach, "slow", slow)
        disks = list(pool.map(attach, others, others.values()))
        assert not waits.done()
        for number, disk in enumerate(disks):
            write(disk, bytes([number]) * 4096)
        gate.open()
        disks.append(waits.result(END_S))
        for number, disk in enumerate(disks[:-1]):
            assert stored(disk)[:4096] == bytes([number]) * 4096
        list(pool.map(Disk.remove, disks))


def test_who_creates_a_device_is_told_why_it_cannot_be_had(tmp_path: Path, daemon: Daemon) -> None:
    backstore = tcmu.Backstore(HBA, "vol")
    result = tmp_path / "result"
    (broken := tmp_path / "broken").write_bytes(os.urandom(8192))
    remote = {"repoBlobUrl": "http://127.0.0.1:1/v2/a/blobs", "resultFile": str(result)}
    for number, said, config in (
        (errno.ENOENT, "is in none of its places", {"lowers": [{"file": str(tmp_path / "none")}]}),
        (errno.EIO, "failed to create overlaybd device", {"lowers": [{"file": str(broken)}]}),
        (errno.ECONNREFUSED, "Connection failed", {"lowers": [{"digest": f"sha256:{0:064}"}]}),
        (errno.EINVAL, "lowers", {"lowers": 7}),
    ):
        with pytest.raises(OSError) as caught:
            backstore.create(configured(tmp_path, **remote, **config))
        assert said in result.read_text()
        assert (caught.value.errno, result.read_text()[:7]) == (number, "failed:")
        assert not backstore.directory.exists()
        daemon.hear("user_1/vol is refused")
    for number, string in ((errno.ENOENT, "overlaybd//nowhere"), (errno.EINVAL, "overlaybd/;id")):
        with pytest.raises(OSError) as caught:
            backstore.create(string)
        assert caught.value.errno == number
    with attached("vol", of_zeros(room(tmp_path, "good"), SIZE)) as disk:
        write(disk, b"x" * 4096)


def test_devices_of_other_programs_are_left_to_them(daemon: Daemon) -> None:
    backstore = tcmu.Backstore(HBA, "theirs")
    with tcmu.Link() as link, ThreadPoolExecutor(1) as pool:
        for subtype in ("other", "overlaybd2", "over"):
            for change, act in (
                (tcmu.Change.ADDED, lambda subtype=subtype: backstore.create(f"{subtype}//x")),
                (tcmu.Change.REMOVED, backstore.remove),
            ):
                done = pool.submit(act)
                while not (events := link.receive()):
                    time.sleep(0.001)
                (event,) = events
                assert (event.change, event.device.backstore, event.device.subtype) == (
                    change,
                    backstore,
                    subtype,
                )
                link.reply(event)
                done.result(END_S)
    assert daemon.process.poll() is None


def test_what_came_before_a_link_was_left_is_told() -> None:
    prepare()
    backstore = tcmu.Backstore(HBA, "theirs")
    with tcmu.Link() as link, ThreadPoolExecutor(1) as pool:
        done = pool.submit(backstore.create, "other//x")
        assert select([link], (), (), END_S)[0]
        (event,) = link.leave()
        assert (event.change, event.device.backstore) == (tcmu.Change.ADDED, backstore)
        link.reply(event)
        done.result(END_S)
        backstore.remove()  # and nobody is waited for any more
        assert not link.receive()


def test_a_daemon_that_dies_under_load_is_succeeded_by_the_next(tmp_path: Path, daemon: Daemon) -> None:
    disks = [attach(f"vol{n}", of_zeros(room(tmp_path, str(n)), 2 * SIZE)) for n in range(3)]
    load = Load(disks, "--iodepth=16", "--fsync=32", "--rate=,16m")
    for _ in range(4):
        load.write(2048)
        daemon.end(signal.SIGKILL)
        daemon.start()
        for disk in disks:
            daemon.hear(f"user_1/{disk.backstore.name} is taken over")
    load.end()
    for disk in disks:
        disk.remove()


def test_a_daemon_that_is_stopped_leaves_nothing_under_way(tmp_path: Path, daemon: Daemon) -> None:
    with attached("vol", of_zeros(tmp_path, 8 * SIZE)) as disk:
        load = subprocess.Popen([*fio(disk), "--iodepth=16"], stdout=subprocess.PIPE)
        while not sectors(disk):
            time.sleep(0.005)
        for _ in range(2):
            assert daemon.end(signal.SIGTERM) == 0
            (left,) = daemon.heard("is left to the next daemon")
            assert left.endswith("user_1/vol is left to the next daemon")
            daemon.start()
        said, _ = load.communicate(timeout=END_S)
        assert load.returncode == 0, said.decode()


def test_who_waits_for_a_daemon_that_dies_is_served_by_the_next(tmp_path: Path, daemon: Daemon) -> None:
    config = of_zeros(tmp_path, SIZE)
    with ThreadPoolExecutor(1) as pool, Gate(config) as gate:
        waits = pool.submit(attach, "vol", config)
        gate.wait()
        daemon.end(signal.SIGKILL)
        gate.open()
        daemon.start()
        disk = waits.result(END_S)
    write(disk, b"x" * 4096)
    disk.remove()


def test_a_disk_can_be_taken_from_its_users(tmp_path: Path, daemon: Daemon) -> None:
    disk = attach("vol", of_zeros(room(tmp_path, "first"), SIZE))
    with pytest.raises(OSError) as caught:
        disk.backstore.remove()
    assert caught.value.errno == errno.EBUSY
    load = subprocess.Popen(
        [*fio(disk), "--iodepth=16", "--loops=1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while sectors(disk) < 2048:
        time.sleep(0.005)
    disk.remove()
    load.communicate(timeout=END_S)
    assert load.returncode > 0
    with attached("vol", of_zeros(room(tmp_path, "second"), SIZE)) as disk:
        write(disk, b"x" * 4096)


def test_many_rounds_leave_nothing_behind(tmp_path: Path, daemon: Daemon) -> None:
    config = of_zeros(tmp_path, SIZE)

    def held() -> tuple[int, int]:
        process = Path("/proc", str(daemon.process.pid))
        return len(os.listdir(process / "fd")), len((process / "maps").read_text().split("/dev/uio"))

    after = []
    for number in range(30):
        with attached("vol", config) as disk:
            write(disk, bytes([number]) * 4096)
        daemon.hear("user_1/vol is removed")
        after.append(held())
    # Each at its least: a thread of one round may still be ending in the next.
    early, late = (
        [min(column) for column in zip(*rounds, strict=True)] for rounds in (after[10:20], after[20:])
    )
    assert late == early
    assert late[1] == 1
    assert not list(Path("/dev").glob("uio*")) + list(Path("/sys/kernel/config/target/core").glob("user_*"))


def test_it_can_be_exported_by_iscsi(tmp_path: Path, daemon: Daemon) -> None:
    tool("modprobe", "iscsi_target_mod")
    backstore = tcmu.Backstore(HBA, "vol")
    backstore.create(of_zeros(tmp_path, SIZE))
    target = tcmu.IscsiTarget("iqn.2024-01.org.example:vol", "127.0.0.1:3260")
    target.create(backstore)
    try:
        listening = Path("/proc/net/tcp").read_text()
        assert "0100007F:0CBC" in listening  # 127.0.0.1:3260
    finally:
        target.remove()
        backstore.remove()
    assert not target.directory.exists()
