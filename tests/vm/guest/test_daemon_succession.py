"""One daemon follows another, after a crash or by taking its place: users wait, and nothing fails."""

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tcmu
from tests.e2e.disks import MIB, tool
from tests.vm.guest.slow_registry import slow_registry
from tests.vm.guest.tcmu_disk import (
    HBA,
    Daemon,
    Gate,
    attach,
    attached,
    configured,
    lower_of,
    of_zeros,
    running,
)
from tests.vm.guest.test_tcmu import fio, stored, write
from tests.vm.guest.test_tcmu_life import END_S, room, sectors

LIMITS = {
    "HANDOVER_S": 60,
    "DRAIN_S": 0.5,
    "CLOSE_LIMIT_S": 3,
    "READY_S": 1,
    "REMOVE_UNOPENED_S": 0.5,
    "TICK_S": 0.05,
    "RETRY_S": "(0.1,)",
}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, limits=LIMITS) as daemon:
        yield daemon


def test_the_next_daemon_takes_the_place_of_one_under_load(tmp_path: Path, daemon: Daemon) -> None:
    disks = [attach(f"vol{n}", of_zeros(room(tmp_path, str(n)), 32 * MIB)) for n in range(2)]
    load = [
        subprocess.Popen([*fio(disk), "--iodepth=16", "--fsync=32", "--rate=,8m"], stdout=subprocess.PIPE)
        for disk in disks
    ]
    while not all(sectors(disk) for disk in disks):
        assert all(one.poll() is None for one in load)
    for _ in range(3):
        daemon.succeed()
        for disk in disks:
            daemon.hear(f"user_1/{disk.backstore.name} is taken over")
        if all(one.poll() is not None for one in load):
            break
    for one in load:
        said, _ = one.communicate(timeout=END_S)
        assert one.returncode == 0, said.decode()
    for disk in disks:
        disk.remove()


def test_who_makes_a_disk_meanwhile_gets_it_from_the_next(tmp_path: Path, daemon: Daemon) -> None:
    config = of_zeros(tmp_path, MIB)
    with ThreadPoolExecutor(1) as pool, Gate(config) as gate:
        waits = pool.submit(attach, "vol", config)
        gate.wait()
        daemon.succeed()
        gate.open()
        disk = waits.result(END_S)
    write(disk, b"x" * MIB)
    disk.remove()


def test_one_that_cannot_be_replaced_goes_on(tmp_path: Path) -> None:
    data = os.urandom(2 * MIB)
    with (
        running(tmp_path, limits={**LIMITS, "HANDOVER_S": 1}) as daemon,
        slow_registry(lower_of(tmp_path, data)) as registry,
        ThreadPoolExecutor(1) as pool,
    ):
        config = configured(tmp_path, repoBlobUrl=registry.url, lowers=[{"digest": registry.digest}])
        disk = attach("vol", config)
        with attached("other", of_zeros(room(tmp_path, "other"), MIB)) as other:
            registry.open.clear()
            tool("blockdev", "--flushbufs", disk.node)
            reads = pool.submit(disk.node.read_bytes)
            registry.waiting.wait(END_S)
            command = [*daemon.command, "--takeover"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=END_S, check=False)
            assert done.returncode == 255
            assert "goes on: user_1/vol: reading" in done.stderr
            write(other, b"x" * MIB)
            asks = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            daemon.hear("another daemon asks")  # the first one
            daemon.hear("another daemon asks")
            asks.kill()
            asks.wait(END_S)
            daemon.hear("no other daemon takes the place of this one")
            daemon.hear("no other daemon takes the place of this one")
            with attached("new", of_zeros(room(tmp_path, "new"), MIB)) as new:
                write(new, b"x" * MIB)
            registry.open.set()
            assert reads.result(END_S) == data
        disk.remove()


def test_takeover_of_nobody_is_a_start(tmp_path: Path, daemon: Daemon) -> None:
    daemon.end(signal.SIGTERM)
    daemon.start("--takeover")
    with attached("vol", of_zeros(tmp_path, MIB)) as disk:
        write(disk, b"x" * MIB)


def test_a_disk_whose_image_cannot_be_opened_again_waits_for_it(tmp_path: Path, daemon: Daemon) -> None:
    data = os.urandom(2 * MIB)
    where = lower_of(tmp_path, data)
    disk = attach("vol", configured(tmp_path, lowers=[{"file": str(where)}]))
    with attached("other", of_zeros(room(tmp_path, "other"), MIB)) as other:
        daemon.end(signal.SIGKILL)
        away = where.rename(tmp_path / "away")
        daemon.start()
        daemon.hear("user_1/vol cannot be taken over, its users wait")
        write(other, b"x" * MIB)
        tool("blockdev", "--flushbufs", disk.node)
        with ThreadPoolExecutor(1) as pool:
            reads = pool.submit(disk.node.read_bytes)
            stat = tool("curl", "-s", "--unix-socket", control_socket(daemon), "http://localhost/v1/health")
            assert "user_1/vol" in stat and not reads.done()
            away.rename(where)
            assert reads.result(END_S) == data
        daemon.hear("user_1/vol is taken over")
        assert len(daemon.heard("user_1/vol cannot be taken over")) == 0  # it was told of once
    disk.remove()


def control_socket(daemon: Daemon) -> str:
    """Where the daemon answers."""
    return f"/run/overlaybd/processes/{daemon.process.pid}.sock"


def test_what_was_being_taken_over_can_be_removed(tmp_path: Path, daemon: Daemon) -> None:
    config = of_zeros(tmp_path, MIB)
    backstore = tcmu.Backstore(HBA, "vol")
    backstore.create(config)
    daemon.end(signal.SIGKILL)
    (path := Path(config.removeprefix("overlaybd/"))).rename(tmp_path / "away")
    daemon.start()
    daemon.hear("user_1/vol cannot be taken over")
    backstore.remove()
    (tmp_path / "away").rename(path)
    with attached("vol", config) as disk:
        assert stored(disk) == bytes(MIB)


def test_what_cannot_be_opened_soon_is_removed_at_once(tmp_path: Path, daemon: Daemon) -> None:
    config = of_zeros(tmp_path, MIB)
    backstore = tcmu.Backstore(HBA, "vol")
    backstore.create(config)
    daemon.end(signal.SIGKILL)
    with Gate(config) as gate:
        daemon.start()
        gate.wait()
        backstore.remove()
        daemon.hear("removed, and not closed yet")


def test_a_daemon_ends_though_a_registry_does_not_answer(tmp_path: Path, daemon: Daemon) -> None:
    data = os.urandom(2 * MIB)
    with slow_registry(lower_of(tmp_path, data)) as registry, ThreadPoolExecutor(1) as pool:
        config = configured(tmp_path, repoBlobUrl=registry.url, lowers=[{"digest": registry.digest}])
        disk = attach("vol", config)
        registry.open.clear()
        tool("blockdev", "--flushbufs", disk.node)
        reads = pool.submit(disk.node.read_bytes)
        registry.waiting.wait(END_S)
        assert daemon.end(signal.SIGTERM) == 0
        assert daemon.heard("left to be done by the next daemon: user_1/vol: reading")
        daemon.start()
        registry.open.set()
        assert reads.result(END_S) == data
        disk.remove()
