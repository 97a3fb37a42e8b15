"""Disks on TCMU in rough times: a daemon that dies again and again, many devices, a registry that is away."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from obd import registry as registries
from obd.push import Repository
from obd.sockets import statistics
from obdcore import lsmt_commit, lsmt_create
from tests.e2e import fio
from tests.e2e.disks import MIB, layer, tool
from tests.e2e.servers import Registry
from tests.vm.guest.tcmu_disk import HBA, Daemon, Disk, attach, attached, configured, of_zeros, running
from tests.vm.guest.test_tcmu import TREE, mounted, stored, write
from tests.vm.guest.test_tcmu_life import Load

END_S = 120.0


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        yield daemon


def rooms(directory: Path, count: int) -> list[Path]:
    """Directories in a directory."""
    found = [directory / f"vol{number}" for number in range(count)]
    for path in found:
        path.mkdir(parents=True)
    return found


def held(daemon: Daemon) -> tuple[int, int, int]:
    """What the daemon holds: descriptors, threads, mapped rings."""
    process = Path("/proc", str(daemon.process.pid))
    maps = (process / "maps").read_text().count("/dev/uio")
    return len(os.listdir(process / "fd")), len(os.listdir(process / "task")), maps


@pytest.mark.timeout(900)
def test_ten_deaths_under_load_lose_no_byte(tmp_path: Path, daemon: Daemon) -> None:
    kinds = ("log", "sparse") * 4
    disks = [
        attach(room.name, of_zeros(room, 32 * MIB, kind))
        for room, kind in zip(rooms(tmp_path, 8), kinds, strict=True)
    ]
    load = Load(disks, "--iodepth=8", "--fsync=64", "--rate=,2m", "--output-format=terse")
    numbers, recoveries = random.Random(1), []
    for _ in range(10):
        load.write(numbers.randrange(256, 2048))
        daemon.end(signal.SIGKILL)
        began = time.monotonic()
        daemon.start()
        for disk in disks:
            daemon.hear(f"user_{HBA}/{disk.backstore.name} is taken over")
        recoveries.append(time.monotonic() - began)
    print("recovery, s:", *(f"{took:.2f}" for took in recoveries))
    load.end()
    for disk in disks:
        disk.remove()


@pytest.mark.timeout(900)
def test_two_hundred_devices_at_once(tmp_path: Path, daemon: Daemon) -> None:
    configs = {room.name: of_zeros(room, MIB) for room in rooms(tmp_path, 200)}
    began = time.monotonic()
    with ThreadPoolExecutor(200) as pool:
        disks = list(pool.map(attach, configs, configs.values()))
        print(f"200 devices in {time.monotonic() - began:.1f} s")
        for number, disk in enumerate(disks):
            write(disk, bytes([number]) * 4096)
        for number, disk in enumerate(disks):
            assert stored(disk)[:4096] == bytes([number]) * 4096
        assert held(daemon)[2] == 200
        list(pool.map(lambda disk: disk.remove(), disks))
    assert not list(Path("/dev").glob("uio*")) + list(Path("/sys/kernel/config/target/core").glob("user_*"))
    assert held(daemon)[2] == 0


@pytest.mark.timeout(900)
def test_three_hundred_rounds_leave_nothing_behind(tmp_path: Path, daemon: Daemon) -> None:
    config = of_zeros(tmp_path, 4 * MIB)

    def memory_kib() -> int:
        status = Path("/proc", str(daemon.process.pid), "status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    after, memory = [], {}
    for number in range(300):
        with attached("vol", config) as disk:
            write(disk, bytes([number % 256]) * 4096)
        daemon.hear(f"user_{HBA}/vol is removed")
        after.append(held(daemon))
        memory[number] = memory_kib()
    # Each at its least: a thread of one round may still be ending in the next.
    early, late = (
        [min(column) for column in zip(*rounds, strict=True)] for rounds in (after[80:100], after[280:])
    )
    assert late == early
    assert late[2] == 0
    # What it grows by is less than one device takes, and a device's leak would show 200 times over.
    assert memory[299] < memory[99] + 2048, memory
    assert not list(Path("/dev").glob("uio*")) + list(Path("/sys/kernel/config/target/core").glob("user_*"))


@pytest.mark.timeout(360)
def test_deaths_while_devices_come_and_go(tmp_path: Path, daemon: Daemon) -> None:
    """Whoever makes and removes devices meanwhile waits, or is told to try again; nothing hangs."""
    over = threading.Event()

    def come_and_go(room: Path) -> int:
        config, rounds = of_zeros(room, MIB), 0
        while not over.is_set() or not rounds:
            with attached(room.name, config) as disk:
                write(disk, data := os.urandom(4096))
                assert stored(disk)[:4096] == data
            rounds += 1
        return rounds

    numbers = random.Random(2)
    with ThreadPoolExecutor(8) as pool:
        going = [pool.submit(come_and_go, room) for room in rooms(tmp_path, 8)]
        try:
            for _ in range(8):
                # No event: it is the moment that is to be any.
                time.sleep(numbers.uniform(0.0, 0.4))
                daemon.end(signal.SIGKILL)
                daemon.start()
        finally:
            over.set()
        print("rounds:", *(one.result(END_S) for one in going))
    assert not list(Path("/sys/kernel/config/target/core").glob("user_*"))


@contextmanager
def remote(directory: Path) -> Iterator[tuple[Registry, str, int]]:
    """An image of blocks that fio knows: its registry, what a backstore is told, and its size in bytes."""
    size = 4 * MIB
    fio.write(directory / "raw", size)
    pushed = layer(directory / "layer", (directory / "raw").read_bytes())
    with Registry(directory / "registry") as registry:
        url = registry.repository("team/app")
        blob = Repository(registries.Registry(), url).push_file(str(pushed))
        lower = {"digest": blob.digest, "size": pushed.stat().st_size}
        yield registry, configured(directory, repoBlobUrl=f"{url}/blobs", lowers=[lower]), size


def reader(disk: Disk, size: int) -> fio.Reader:
    return fio.Reader(size, f"--filename={disk.node}", "--direct=1", "--ioengine=libaio", "--rate_iops=500")


@pytest.mark.timeout(360)
def test_a_registry_that_is_away_is_waited_for(tmp_path: Path, daemon: Daemon) -> None:
    with (
        remote(tmp_path) as (registry, config, size),
        attached("vol", config) as disk,
        reader(disk, size) as reads,
    ):
        # Each of the first reads wants another chunk.
        for count in (5, 15):
            until(partial(has_read, disk.name, 4096 * count), "nothing is read")
            before = failures(daemon)
            registry.kill()
            until(partial(has_failed, daemon, before), "nothing is asked of the registry")
            registry.start()
        until(lambda: reads.passes or reads.problem, "fio does not get on")


@pytest.mark.timeout(360)
def test_a_daemon_leaves_what_waits_for_a_registry_to_the_next(tmp_path: Path) -> None:
    with (
        running(tmp_path, limits={"DRAIN_S": 0.5}) as daemon,
        remote(tmp_path) as (registry, config, size),
        attached("vol", config) as disk,
        reader(disk, size) as reads,
    ):
        until(partial(has_read, disk.name, 4096 * 5), "nothing is read")
        registry.kill()
        until(partial(has_failed, daemon, 0), "nothing is asked of the registry")
        assert daemon.end(signal.SIGTERM) == 0
        registry.start()
        daemon.start()
        until(lambda: reads.passes or reads.problem, "fio does not get on")


def has_read(name: str, count: int) -> bool:
    """Whether so many bytes have been read from a disk."""
    return int(Path("/sys/block", name, "stat").read_text().split()[2]) * 512 > count


def failures(daemon: Daemon) -> int:
    """Requests to registries that failed so far."""
    (device,) = statistics(daemon.process.pid)["devices"]
    assert device["errors"] == 0
    return sum(layer["failures"] for layer in device["layers"])


def has_failed(daemon: Daemon, before: int) -> bool:
    """Whether more requests to registries have failed than before."""
    return failures(daemon) > before


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + END_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_an_image_that_is_built_on_a_disk_becomes_the_lower_of_another(
    tmp_path: Path, daemon: Daemon
) -> None:
    for kind in ("log", "sparse"):
        first, second = rooms(tmp_path / kind, 2)
        with attached("vol", of_zeros(first, 300 * MIB, kind)) as disk:
            tool("mkfs.xfs", "-q", disk.node)
            with mounted(disk, first / "root") as root:
                tool("cp", "-a", TREE, root)
        with (first / "commit").open("xb") as output:
            lsmt_commit(
                str(first / "data"), str(first / "index"), output.fileno(), compress={"algorithm": "lz4"}
            )
        lowers = [{"file": str(first / "commit")}]
        with attached("below", configured(second, lowers=lowers)) as disk:
            assert disk.setting("ro") == "1"
            with mounted(disk, second / "root", "-o", "ro") as root:
                tool("diff", "-r", TREE, root / TREE.name)
        lsmt_create(str(second / "data"), str(second / "index"), size=0, sparse=kind == "sparse")
        upper = {"data": str(second / "data"), "index": str(second / "index")}
        config = configured(second, lowers=lowers, upper=upper)
        with attached("above", config) as disk:
            with mounted(disk, second / "root") as root:
                tool("diff", "-r", TREE, root / TREE.name)
                tool("rm", "-r", root / TREE.name)
                (root / "new").write_bytes(b"new")
            tool("xfs_repair", "-n", disk.node)
        with attached("again", config) as disk, mounted(disk, second / "root", "-o", "ro") as root:
            assert [path.name for path in root.iterdir()] == ["new"]
