"""Images as disks of the kernel's ublk driver, served by this process: what `/dev/ublkbN` does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import obdcore
from tests.e2e.disks import MIB, content, fails, read_only, tool, writable

UPDATE_SIZE = 1 << 10  # UBLK_F_UPDATE_SIZE

qemu = pytest.mark.guest("qemu")


@pytest.fixture(autouse=True)
def driver() -> None:
    tool("modprobe", "ublk_drv")


@contextmanager
def served(image: obdcore.Image) -> Iterator[obdcore.UblkDevice]:
    device = obdcore.UblkDevice(image)
    try:
        yield device
    finally:
        device.remove()
    assert not Path(device.path).exists()
    image.close()


def setting(device: obdcore.UblkDevice, name: str) -> str:
    return Path("/sys/block", Path(device.path).name, name).read_text().strip()


def stored(device: obdcore.UblkDevice) -> bytes:
    tool("blockdev", "--flushbufs", device.path)
    return Path(device.path).read_bytes()


@qemu
def test_a_writable_image(tmp_path: Path) -> None:
    with served(writable(tmp_path, size=8 * MIB)) as device:
        wanted = {
            "size": str(8 * MIB // 512),
            "ro": "0",
            "queue/logical_block_size": "512",
            "queue/physical_block_size": "4096",
            "queue/write_cache": "write back",
            "queue/fua": "1",
            "queue/rotational": "0",
            "queue/discard_granularity": "4096",
            "queue/discard_max_bytes": str(1 << 30),
            "queue/write_zeroes_max_bytes": str(32 * MIB),
        }
        assert {name: setting(device, name) for name in wanted} == wanted
        data = os.urandom(MIB + 512)
        with open(device.path, "r+b") as disk:
            disk.seek(512)
            disk.write(data)
            disk.flush()
            os.fsync(disk.fileno())
        assert stored(device)[512:][: len(data)] == data
        tool("blkdiscard", "--offset", str(MIB // 2), "--length", str(MIB // 4), device.path)
        assert stored(device)[MIB // 2 :][: MIB // 4] == bytes(MIB // 4)
        assert obdcore.ublk_info(device.number)["state"] == "live"


@qemu
def test_a_read_only_image_cannot_be_written(tmp_path: Path) -> None:
    data = content(4 * MIB)
    with served(read_only(tmp_path, data)) as device:
        assert setting(device, "ro") == "1"
        assert stored(device) == data
        assert "not permitted" in fails("dd", "if=/dev/zero", f"of={device.path}", "count=1").lower()


@pytest.mark.guest("qemu2")
def test_several_processors_have_queues_of_their_own(tmp_path: Path) -> None:
    with served(writable(tmp_path, size=8 * MIB)) as device:
        assert device.queues == 2
        queues = [Path("/sys/block", Path(device.path).name, "mq", str(n), "cpu_list") for n in range(2)]
        assert [queue.read_text().strip() for queue in queues] == ["0", "1"]
        verify = ("--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0")
        shape = ("--rw=randwrite", "--bsrange=512-64k", "--blockalign=512", "--iodepth=8", "--size=1m")
        common = ("--direct=1", "--ioengine=libaio", f"--filename={device.path}", *shape, *verify)
        jobs = [f"--name=cpu{n} --cpus_allowed={n} --offset={4 * n}m".split() for n in range(2)]
        tool("fio", *jobs[0], *common, *jobs[1], *common, timeout_s=200)
        assert stored(device) != bytes(8 * MIB)
        assert device.stats()["errors"] == device.stats()["active"] == 0


@qemu
def test_a_disk_of_an_image_that_has_grown(tmp_path: Path) -> None:
    image = writable(tmp_path, size=4 * MIB)
    with served(image) as device:
        image.resize(8 * MIB)
        if obdcore.ublk_features() & UPDATE_SIZE:
            device.update_size()
            assert int(setting(device, "size")) == 8 * MIB // 512
        else:
            with pytest.raises(obdcore.Error, match=r"^\[Errno 95\] unsupported: .*Linux 6\.16"):
                device.update_size()
            assert int(setting(device, "size")) == 4 * MIB // 512


@qemu
def test_a_disk_waits_for_its_next_server(tmp_path: Path) -> None:
    image = writable(tmp_path, size=8 * MIB)
    device = obdcore.UblkDevice(image)
    number = device.number
    with open(device.path, "r+b", buffering=0) as disk:
        disk.write(b"before".ljust(512))
        device.stop()
        image.close()
        device.wait()
        image = obdcore.Image([], (str(tmp_path / "upper.data"), str(tmp_path / "upper.index")))
        device = obdcore.UblkDevice(image, number=number, recover=True)
        os.fsync(disk.fileno())
        assert stored(device)[:512] == b"before".ljust(512)
    device.remove()
    assert number not in obdcore.ublk_numbers()
