"""Disks of the kernel at work while their servers are killed, registry, cache and room on the disk are gone.

Each sector says what it is (`tests/rigs`): I/O goes on, nothing fails but where it must, every byte is right.
"""

import errno
import os
import random
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import obd.ublk
import obdcore
from obd.sockets import statistics
from tests.e2e.disks import MIB, tool
from tests.rigs.attached import until, working
from tests.rigs.images import KINDS, Store
from tests.rigs.load import Load, spread
from tests.rigs.rounds import LONG, MORE, ROUNDS, seeds
from tests.rigs.stamps import BASE
from tests.vm.guest.tcmu_disk import Daemon, Disk, attach, running

SIZE = 4 * MIB
PATIENCE = {"RETRY_S": "(0.1,)"}

pytestmark = pytest.mark.timeout(360 * ROUNDS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store", SIZE) as store:
        store.cache = tmp_path / "cache"
        yield store


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, limits=PATIENCE) as daemon:
        yield daemon


def failures(pid: int) -> int:
    """Requests to registries that failed so far, of all devices of a process."""
    return sum(layer["failures"] for device in statistics(pid)["devices"] for layer in device["layers"])


def test_tcmu_disks_while_all_around_them_fails(tmp_path: Path, store: Store, daemon: Daemon) -> None:
    for seed in seeds():
        numbers = random.Random(seed)
        disks: list[Disk] = []
        loads: list[Load] = []
        for number in range(4):
            image = store.image(tmp_path / f"{seed}-{number}", KINDS[number % 2])
            disks.append(attach(image.directory.name, f"overlaybd/{image.config}"))
            loads += spread(disks[-1].node, SIZE, parts=1, seed=seed * 10 + number, base=BASE)
        with working(loads):
            for load in loads:
                load.wait(2)
            store.registry.kill()
            store.delete_cache()
            try:
                until(lambda: failures(daemon.process.pid), "nothing is asked of the registry")
            finally:
                store.registry.start()
            for _ in range(2 * MORE):
                for load in loads:
                    load.wait(numbers.randrange(5, 20))
                daemon.end(signal.SIGKILL)
                store.delete_cache()
                daemon.start()
                for disk in disks:
                    daemon.hear(f"{disk.backstore.name} is taken over")
            for load in loads:
                load.wait(10)
        for disk in disks:
            disk.remove()


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """A file system of that size."""
    directory.mkdir()
    tool("mount", "-t", "tmpfs", "-o", f"size={size}", "small", directory)
    yield directory
    tool("umount", directory)


def fill(loads: list[Load]) -> None:
    """Works until the disk is full, which only fails writes."""
    for load in loads:
        load.fragile.set()
        load.start()
    for load in loads:
        load.until(lambda load=load: load.failed > 5, "full disk")  # type: ignore[misc]
        assert load.last_error in (errno.ENOSPC, errno.EIO)
    for load in loads:
        load.stop()
        load.verify()
        load.fragile.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_a_tcmu_disk_whose_upper_has_no_room(tmp_path: Path, store: Store, daemon: Daemon, kind: str) -> None:
    with small_disk(tmp_path / "small", "1m") as small:
        image = store.image(small, kind)
        disk = attach("vol", f"overlaybd/{image.config}")
        loads = spread(disk.node, SIZE, parts=2, seed=1, base=BASE)
        fill(loads)
        # Nothing is lost if the daemon dies, and the next one opens what there is no room for.
        daemon.end(signal.SIGKILL)
        daemon.start()
        daemon.hear("vol is taken over")
        tool("mount", "-o", "remount,size=256m", small)
        with working(loads):
            for load in loads:
                load.wait(50)
        disk.remove()


def kill(path: str) -> None:
    """Kills the process that serves a ublk disk, and waits for its end."""
    fd = os.pidfd_open(obdcore.ublk_info(int(path.removeprefix("/dev/ublkb")))["pid"])
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    ready, _, _ = select.select([fd], [], [], 120)
    os.close(fd)
    assert ready


@pytest.mark.guest("qemu")
@pytest.mark.parametrize("kind", KINDS if LONG else KINDS[:1])
def test_a_ublk_disk_while_all_around_it_fails(tmp_path: Path, kind: str) -> None:
    with small_disk(tmp_path / "small", "400k") as small, Store(tmp_path / "store", MIB) as store:
        image = store.image(small, kind)
        path = obd.ublk.add(image.config, service=image.service)
        number = int(path.removeprefix("/dev/ublkb"))
        loads = spread(path, MIB, parts=1, seed=1, base=BASE)
        with working(loads):
            loads[0].wait(2)
            store.registry.kill()
            store.delete_cache()
            store.registry.start()
            loads[0].fragile.set()
            loads[0].until(lambda: loads[0].failed > 2, "full disk")
            kill(path)
            tool("mount", "-o", "remount,size=256m", small)
            assert obd.ublk.recover(number) == path
            loads[0].wait(5 * MORE)
            loads[0].fragile.clear()
            loads[0].wait(10 * MORE)
        obd.ublk.remove(number)
