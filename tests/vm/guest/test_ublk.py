"""Images as disks of the kernel's ublk driver, served by this process: what `/dev/ublkbN` does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import obdcore
from tests.e2e.disks import MIB, content, fails, read_only, tool, writable

pytestmark = pytest.mark.guest("qemu")


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


def test_a_read_only_image_cannot_be_written(tmp_path: Path) -> None:
    data = content(4 * MIB)
    with served(read_only(tmp_path, data)) as device:
        assert setting(device, "ro") == "1"
        assert stored(device) == data
        assert "not permitted" in fails("dd", "if=/dev/zero", f"of={device.path}", "count=1").lower()


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
