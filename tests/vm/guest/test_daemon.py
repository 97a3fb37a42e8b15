"""What `overlaybd-tcmu` does for whoever asks for disks, and what it says to those who watch it."""

import errno
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

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
    of_data,
    of_zeros,
    running,
)
from tests.vm.guest.test_tcmu import stored, write
from tests.vm.guest.test_tcmu_life import END_S, room

LIMITS = {"TICK_S": 0.05, "RECONCILE_S": 0.2, "SLOW_S": 0.3}
CORE = Path("/sys/kernel/config/target/core")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, limits=LIMITS) as daemon:
        yield daemon


def shell(script: str) -> subprocess.CompletedProcess[str]:
    """What a shell says to a script."""
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=END_S, check=False)


def test_a_disk_in_three_lines_of_shell(tmp_path: Path, daemon: Daemon) -> None:
    result = tmp_path / "result"
    config = of_zeros(tmp_path, MIB, resultFile=str(result)).removeprefix("overlaybd/")
    backstore = tcmu.Backstore(HBA, "app")
    made = f"mkdir -p {backstore.directory}"
    done = shell(
        f"{made} && echo -n 'dev_config=overlaybd/{config};7' > {backstore.directory}/control"
        f" && echo 1 > {backstore.directory}/enable"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert result.read_text() == "success"
    loopback = tcmu.Loopback.of(backstore)
    disk = loopback.create(backstore)
    data = os.urandom(MIB)
    disk.write_bytes(data)
    tool("blockdev", "--flushbufs", disk)
    assert disk.read_bytes() == data
    (device,) = json.loads(tool("obd", "stat", "--json"))[0]["devices"]
    assert (device["name"], device["address"]) == ("user_1/app", str(disk))
    other = tcmu.Backstore(HBA, "other")
    with pytest.raises(OSError) as caught:
        other.create(of_data(room(tmp_path, "other"), data, resultFile=str(result)) + ";7")
    assert caught.value.errno == errno.EBUSY
    assert result.read_text() == "failed:duplicated dev id: 7"
    loopback.remove()
    assert shell(f"rmdir {backstore.directory}").returncode == 0
    other.create(of_data(room(tmp_path, "again"), data, resultFile=str(result)) + ";7")
    assert result.read_text() == "success"
    other.remove()


def test_a_disk_grows_while_it_is_used(tmp_path: Path, daemon: Daemon) -> None:
    with attached("vol", of_zeros(tmp_path, MIB)) as disk:
        size = disk.backstore.directory / "attrib" / "dev_size"
        size.write_text(str(2 * MIB))
        Path("/sys/block", disk.name, "device/rescan").write_text("1")
        assert int(disk.setting("size")) * 512 == 2 * MIB
        for wrong in (MIB, 2 * MIB + 1):
            with pytest.raises(OSError) as caught:
                size.write_text(str(wrong))
            assert caught.value.errno == errno.EINVAL
        with pytest.raises(OSError) as caught:
            (disk.backstore.directory / "attrib" / "emulate_write_cache").write_text("1")
        assert caught.value.errno == errno.EOPNOTSUPP
        write(disk, b"x" * MIB, MIB)
        assert stored(disk) == bytes(MIB) + b"x" * MIB


def test_who_waits_for_too_long_is_told_so(tmp_path: Path) -> None:
    config, limits = of_zeros(tmp_path, MIB), {**LIMITS, "OPEN_LIMIT_S": 2}
    with running(tmp_path, limits=limits) as daemon, Gate(config) as gate:
        backstore = tcmu.Backstore(HBA, "slow")
        with pytest.raises(TimeoutError):
            backstore.create(config)
        # The number of the refused device is that of the next one, which need not wait.
        with attached("next", of_zeros(room(tmp_path, "next"), MIB)) as disk:
            gate.open()
            daemon.hear("nobody wants the device any more")
            write(disk, b"x" * MIB)
            assert stored(disk) == b"x" * MIB
        with attached("slow", config) as disk:
            assert stored(disk) == bytes(MIB)


def enable_without_waiting(backstore: tcmu.Backstore, config: str) -> None:
    """Makes a backstore as some do: the kernel waits for nobody, and its user is not told what came of it."""
    make = f"mkdir -p {backstore.directory} && cd {backstore.directory}"
    say = "; echo ".join(["", f"-n dev_config={config} > control", "-n nl_reply_supported=-1 > control"])
    assert shell(f"{make} {say}; echo 1 > enable").returncode == 0


def test_the_removal_of_a_refused_device_is_told_of_by_its_name(tmp_path: Path, daemon: Daemon) -> None:
    backstore = tcmu.Backstore(HBA, "vol")
    enable_without_waiting(backstore, f"overlaybd/{tmp_path}/nothing")
    daemon.hear("user_1/vol is refused")
    backstore.remove()
    daemon.hear("user_1/vol is removed")


def test_a_device_is_removed_while_it_is_being_opened(tmp_path: Path, daemon: Daemon) -> None:
    config = of_zeros(tmp_path, MIB)
    with Gate(config) as gate:
        backstore = tcmu.Backstore(HBA, "vol")
        enable_without_waiting(backstore, config)
        gate.wait()
        backstore.remove()
        gate.open()
        daemon.hear("user_1/vol is removed")
        assert not daemon.heard("user_1/vol is served")
    with attached("vol", config) as disk:
        assert stored(disk) == bytes(MIB)


def test_what_was_not_announced_is_found_out(tmp_path: Path, daemon: Daemon) -> None:
    config = of_zeros(tmp_path, MIB)
    backstore = tcmu.Backstore(HBA, "vol")
    backstore.create(config)
    tcmu.hold()
    backstore.remove()
    tcmu.unhold()
    daemon.hear("user_1/vol is gone and was not announced to be")
    daemon.hear("user_1/vol is removed")
    with attached("vol", config) as disk:
        assert stored(disk) == bytes(MIB)


def test_who_waits_for_a_reply_to_what_was_not_heard_is_set_free(tmp_path: Path) -> None:
    deaf = "from tcmu import Link; heard = Link.receive; times = iter(range(99)); "
    deaf += "Link.receive = lambda self: [e for e in heard(self) if next(times) not in (0, 2)]; "
    with running(tmp_path, program=deaf, limits=LIMITS) as daemon, ThreadPoolExecutor(1) as pool:
        # The kernel ends the wait with EINTR, and the second attempt is heard.
        waits = pool.submit(tcmu.Backstore(HBA, "vol").create, of_zeros(tmp_path, MIB))
        daemon.hear("about user_1/vol, of which nothing was announced")
        waits.result(END_S)
        waits = pool.submit(tcmu.Backstore(HBA, "vol").remove)
        daemon.hear("of which nothing was announced")
        waits.result(END_S)
        daemon.hear("user_1/vol is gone and was not announced to be")


def test_slow_requests_are_told_of(tmp_path: Path, daemon: Daemon) -> None:
    data = os.urandom(2 * MIB)
    with slow_registry(lower_of(tmp_path, data)) as registry, ThreadPoolExecutor(1) as pool:
        lower = {"digest": registry.digest}
        config = configured(tmp_path, repoBlobUrl=registry.url, lowers=[lower])
        disk = attach("vol", config)
        registry.open.clear()
        tool("blockdev", "--flushbufs", disk.node)
        reads = pool.submit(disk.node.read_bytes)
        assert "not done yet" in daemon.hear("user_1/vol: reading")
        daemon.hear("user_1/vol: reading")
        registry.open.set()
        assert reads.result(END_S) == data
        disk.remove()


@contextmanager
def service_manager(path: Path) -> Iterator[Callable[[str], None]]:
    """One that listens at a socket; yields what returns when it has been told a line.

    It reads all the time: the socket has room for ten messages, and what cannot be sent at once is not sent.
    """
    heard: SimpleQueue[str] = SimpleQueue()

    def told(line: str) -> None:
        while line not in heard.get(timeout=END_S):
            pass

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, ThreadPoolExecutor(1) as pool:
        manager.bind(str(path))

        def listen() -> None:
            while message := manager.recv(4096):
                heard.put(message.decode())

        pool.submit(listen)
        try:
            yield told
        finally:
            manager.shutdown(socket.SHUT_RD)


def test_what_the_service_manager_is_told(tmp_path: Path) -> None:
    with service_manager(tmp_path / "notify") as told:
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
        with running(tmp_path, environment=environment, limits=LIMITS) as daemon:
            for line in ("READY=1", "STATUS=0 devices", "WATCHDOG=1", "WATCHDOG=1"):
                told(line)
            with attached("vol", of_zeros(tmp_path, MIB)):
                told("STATUS=1 devices")
            daemon.configure(logPath="", logLevel=0, enableAudit=False)
            daemon.process.send_signal(signal.SIGHUP)
            for line in ("RELOADING=1", "READY=1"):
                told(line)
            daemon.hear("read anew")
            daemon.end(signal.SIGTERM)
            told("STOPPING=1")


def test_an_idle_device_costs_little(tmp_path: Path, daemon: Daemon) -> None:
    process = Path("/proc", str(daemon.process.pid))

    def resident_mib() -> float:
        return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB

    before = resident_mib()
    assert before <= 60
    backstores = [tcmu.Backstore(HBA, f"vol{n}") for n in range(20)]
    for n, backstore in enumerate(backstores):
        backstore.create(of_zeros(room(tmp_path, str(n)), MIB), ring_mib=1)
    assert resident_mib() <= before + 2 * len(backstores)
    assert len(os.listdir(process / "task")) <= len(backstores) + 10
    for backstore in backstores:
        backstore.remove()


def test_there_is_one_daemon(tmp_path: Path, daemon: Daemon) -> None:
    done = subprocess.run(daemon.command, capture_output=True, text=True, timeout=END_S, check=False)
    assert done.returncode == 255
    assert f"another daemon is running, process {daemon.process.pid}" in done.stderr
    with attached("vol", of_zeros(tmp_path, MIB)) as disk:
        assert stored(disk) == bytes(MIB)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ioEngine": 9}, "ioEngine: 9 is not allowed"),
        ({"logPath": "/nowhere/log"}, "/nowhere/log"),
        ({"logPath": "", "exporterConfig": {"enable": True, "address": "192.0.2.1"}}, "192.0.2.1"),
    ],
)
def test_a_configuration_that_cannot_be(tmp_path: Path, settings: dict[str, object], said: str) -> None:
    (config := tmp_path / "overlaybd.json").write_text(json.dumps({"enableAudit": False, **settings}))
    done = subprocess.run(
        ["overlaybd-tcmu", config], capture_output=True, text=True, timeout=END_S, check=False
    )
    assert done.returncode == 255
    (line,) = done.stderr.splitlines()
    assert line.startswith("overlaybd-tcmu: ") and said in line
