"""`overlaybd-ublk` in a kernel that has the driver: disks that are used, and outlive their processes."""

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import obd.attach
import obd.ublk
import obdcore
from obd.attach.ublk import info_of
from obd.errors import ObdError
from tests.e2e.commands import ok, run
from tests.e2e.disks import MIB, content, layer, tool
from tests.vm.boot import PROJECT

pytestmark = pytest.mark.guest("qemu")

SIZE = 32 * MIB
TREE = PROJECT / "docs"  # some files


def writable(directory: Path, size: int = SIZE) -> Path:
    """The configuration of an image of zeros with an upper in `directory`."""
    pair = (str(directory / "data"), str(directory / "index"))
    obdcore.lsmt_create(*pair, size=size, sparse=False)
    config = directory / "rw.json"
    config.write_text(json.dumps({"lowers": [], "upper": {"data": pair[0], "index": pair[1]}}))
    return config


def number(path: str) -> int:
    return int(path.removeprefix("/dev/ublkb"))


def kill(path: str) -> None:
    """Kills the process that serves a disk, and waits for its end."""
    fd = os.pidfd_open(obdcore.ublk_info(number(path))["pid"])
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(120_000), "does not end"
    os.close(fd)


@contextmanager
def mounted(path: str, directory: Path, *options: str) -> Iterator[Path]:
    directory.mkdir(exist_ok=True)
    tool("mount", *options, path, directory)
    try:
        yield directory
    finally:
        tool("umount", directory)


@contextmanager
def flushes_counted(directory: Path) -> Iterator[Path]:
    """A file system on a device that counts the flushes which reach it; its directory."""
    tool("modprobe", "loop")
    raw = directory.with_suffix(".raw")
    with raw.open("wb") as file:
        file.truncate(64 * MIB)
    tool("mkfs.ext4", "-q", raw)
    device = tool("losetup", "--find", "--show", raw).strip()
    directory.mkdir()
    tool("mount", device, directory)
    try:
        yield directory
    finally:
        tool("umount", directory)
        tool("losetup", "--detach", device)


def flushes(directory: Path) -> int:
    device = os.stat(directory).st_dev
    return int(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()[15])


def test_a_file_system_lives_on_a_disk(tmp_path: Path) -> None:
    with flushes_counted(tmp_path / "store") as store:
        config = writable(store)
        options = ("-n", "7", "--queues", "2", "--depth", "32")
        assert ok("overlaybd-ublk", "add", "--config", config, *options).out == "/dev/ublkb7\n"
        path = "/dev/ublkb7"
        queues = min(2, os.cpu_count() or 1)
        assert len(list(Path("/sys/block/ublkb7/mq").iterdir())) == queues
        (disk,) = json.loads(ok("overlaybd-ublk", "list", "--json").out)
        assert disk.pop("pid") > 0
        assert disk == {
            "number": 7,
            "path": path,
            "state": "live",
            "config": str(config),
            "read_only": False,
            "size_bytes": SIZE,
            "queues": queues,
            "depth": 32,
        }
        with pytest.raises(ObdError, match="attached already as /dev/ublkb7"):
            obd.ublk.add(config)
        tool("mkfs.ext4", "-q", path)
        with mounted(path, tmp_path / "root") as root:
            tool("cp", "-a", TREE, root)
            before = flushes(store)
            tool("sync", "--file-system", root)
            assert flushes(store) >= before + 2, "data and index are made durable"
            refused = run("overlaybd-ublk", "del", "-n", "7")
            assert refused.status == 255 and refused.err.startswith("overlaybd-ublk: busy: /dev/ublkb7: "), (
                refused
            )
            assert f"mounted at {root}" in refused.err
        tool("e2fsck", "-fn", path)
        ok("overlaybd-ublk", "del", "-n", "7")
        assert not Path(path).exists() and obdcore.ublk_numbers() == []
        path = obd.ublk.add(config, read_only=True)
        with mounted(path, tmp_path / "root", "-o", "ro,noload") as root:
            tool("diff", "-r", "--exclude=lost+found", TREE, root / TREE.name)
        obd.ublk.remove(number(path))
    with pytest.raises(ObdError, match="not-found: /dev/ublkb7: no such ublk device"):
        obd.ublk.remove(7)


def test_io_goes_on_when_a_killed_process_is_replaced(tmp_path: Path) -> None:
    path = obd.ublk.add(writable(tmp_path))
    options = ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--iodepth=16", "--fsync=64"]
    shape = ["--rw=randwrite", "--bsrange=4k-64k", "--size=8m", "--direct=1", "--ioengine=libaio"]
    command = ["fio", "--name=x", f"--filename={path}", *shape, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as fio:
        for again in (recover_all, lambda: obd.ublk.recover(number(path))):
            begun = sectors(path)
            while sectors(path) < begun + 2048:  # in the middle of something
                assert fio.poll() is None, fio.communicate()
            kill(path)
            assert again() == path
        said, _ = fio.communicate(timeout=200)
        assert fio.returncode == 0, said.decode()
    with pytest.raises(ObdError, match=r"busy: /dev/ublkb.: is served by process"):
        obd.ublk.recover(number(path))
    obd.ublk.remove(number(path))
    assert obdcore.ublk_numbers() == []


def recover_all() -> str:
    return ok("overlaybd-ublk", "recover", "--all").out.strip()


def sectors(path: str) -> int:
    """Sectors read and written so far."""
    words = Path("/sys/block", Path(path).name, "stat").read_text().split()
    return int(words[2]) + int(words[6])


def test_a_disk_without_a_server_waits_or_goes(tmp_path: Path) -> None:
    data = content(4 * MIB)
    config = tmp_path / "ro.json"
    config.write_text(json.dumps({"lowers": [{"file": str(layer(tmp_path / "layer", data))}]}))
    path = obd.ublk.add(config)
    kill(path)
    assert ", dead, read-only, 4.0 MiB, no process" in ok("overlaybd-ublk", "list").out
    (attached,) = obd.attach.attachments()
    assert attached.dead, "nobody uses it, but it stays for its next server"
    assert obd.ublk.add(config) == path, "adding it again serves it again"
    assert Path(path).read_bytes() == data
    kill(path)
    with open(path, "rb"), pytest.raises(ObdError, match=r"busy: /dev/ublkb.: in use: open in python"):
        obd.ublk.remove(number(path))
    obd.ublk.remove(number(path))
    path = obd.ublk.add(config)
    with open(path, "rb") as disk:
        obd.ublk.remove(number(path), force=True)
        assert os.pread(disk.fileno(), 4096, MIB) == b"", "of a disk that is gone"
    path = obd.ublk.add(config)
    kill(path)
    obd.ublk.remove(number(path), force=True)
    assert info_of(path) is None, "no server was there to remove it"
    left = Path("/run/overlaybd/attach").iterdir()
    assert not [place for place in left if place.suffix != ".gone"], (
        "its server may still be removing its own"
    )
