"""Images as SCSI disks of the kernel, by TCMU: what `/dev/sdX` does."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.disks import MIB, fails, tool
from tests.vm.boot import PROJECT
from tests.vm.guest.tcmu_disk import Daemon, Disk, attached, of_data, of_zeros, running

TREE = PROJECT / "docs"
SIZE = 16 * MIB


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


pytestmark = pytest.mark.usefixtures("daemon")


@contextmanager
def mounted(disk: Disk, directory: Path, *options: str) -> Iterator[Path]:
    """The disk's file system on a directory."""
    directory.mkdir(exist_ok=True)
    tool("mount", *options, disk.node, directory)
    try:
        yield directory
    finally:
        tool("umount", directory)


def write(disk: Disk, data: bytes, offset: int = 0) -> None:
    """Writes to the disk, durably."""
    with disk.node.open("r+b") as file:
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def stored(disk: Disk) -> bytes:
    """All bytes of the disk, not from the page cache."""
    tool("blockdev", "--flushbufs", disk.node)
    return disk.node.read_bytes()


@pytest.mark.parametrize("block_bytes", [512, 4096])
def test_what_the_kernel_learns_of_a_writable_image(tmp_path: Path, block_bytes: int) -> None:
    with attached("vol", of_zeros(tmp_path, SIZE), block_bytes=block_bytes) as disk:
        assert int(tool("blockdev", "--getsize64", disk.node)) == SIZE
        wanted = {
            "queue/logical_block_size": str(block_bytes),
            "queue/write_cache": "write back",
            "queue/fua": "1",
            "queue/rotational": "0",
            "queue/max_sectors_kb": "1024",
            "queue/discard_granularity": "4096",
            "queue/discard_max_bytes": str(1 << 30),
            "queue/write_zeroes_max_bytes": str(32 * MIB),
            "ro": "0",
        }
        assert {name: disk.setting(name) for name in wanted} == wanted


def test_a_small_data_area_makes_small_requests(tmp_path: Path) -> None:
    with attached("vol", of_zeros(tmp_path, SIZE), data_area_mib=1) as disk:
        assert int(disk.setting("queue/max_sectors_kb")) == 256
        data = os.urandom(4 * MIB)
        write(disk, data)
        assert stored(disk)[: len(data)] == data


def test_a_read_only_image_is_read_and_cannot_be_written(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.touch()
    os.truncate(raw, SIZE)
    tool("mkfs.ext4", "-q", "-d", TREE, raw)
    data = raw.read_bytes()
    with attached("vol", of_data(tmp_path, data)) as disk:
        assert tool("blockdev", "--getro", disk.node).strip() == "1"
        assert stored(disk) == data
        with mounted(disk, tmp_path / "root", "-o", "ro") as root:
            tool("diff", "-r", "--exclude=lost+found", TREE, root)
        # Past the kernel's disk, which will not even try.
        first_blocks = ("--lba=0", "--num=8", disk.generic)
        write_10 = ("2a", "00", "00", "00", "00", "00", "00", "00", "01", "00")
        for words in (
            ("sg_unmap", "--force", *first_blocks),
            ("sg_write_same", "--in=/dev/zero", *first_blocks),
            ("sg_raw", "--send=512", "--infile=/dev/zero", disk.generic, *write_10),
        ):
            assert "protect" in fails(*words).lower(), words
        tool("sg_sync", disk.generic)
        assert stored(disk) == data


@pytest.mark.parametrize(
    ("kind", "make", "size", "block_bytes"),
    [
        ("log", "ext4", 64 * MIB, 512),
        ("sparse", "ext4", 64 * MIB, 4096),
        ("log", "xfs", 300 * MIB, 512),
    ],
)
def test_a_file_system_lives_on_it(tmp_path: Path, kind: str, make: str, size: int, block_bytes: int) -> None:
    config = of_zeros(tmp_path, size, kind)
    with attached("vol", config, block_bytes=block_bytes) as disk:
        tool(f"mkfs.{make}", "-q", disk.node)
        with mounted(disk, tmp_path / "root") as root:
            tool("cp", "-a", TREE, root)
            tool("cp", "-a", TREE, root / "second")
            tool("rm", "-r", root / TREE.name)
            tool("fstrim", root)
    with attached("again", config, block_bytes=block_bytes) as disk:
        tool(*{"ext4": ("e2fsck", "-fn"), "xfs": ("xfs_repair", "-n")}[make], disk.node)
        with mounted(disk, tmp_path / "root", "-o", "ro") as root:
            tool("diff", "-r", TREE, root / "second")


@pytest.mark.parametrize("kind", ["log", "sparse"])
def test_what_is_discarded_reads_as_zeros(tmp_path: Path, kind: str) -> None:
    config = of_zeros(tmp_path, SIZE, kind)
    with attached("vol", config) as disk:
        write(disk, data := os.urandom(SIZE))
        full = (tmp_path / "data").stat().st_blocks
        tool("blkdiscard", "--offset", str(2 * MIB), "--length", str(4 * MIB), disk.node)
        tool("blkdiscard", "--zeroout", "--offset", str(8 * MIB), "--length", str(MIB), disk.node)
        kept = [data[: 2 * MIB], bytes(4 * MIB), data[6 * MIB : 8 * MIB], bytes(MIB), data[9 * MIB :]]
        assert stored(disk) == b"".join(kept)
    with attached("vol", config) as disk:
        assert stored(disk) == b"".join(kept)
        tool("blkdiscard", disk.node)
        assert stored(disk) == bytes(SIZE)
        if kind == "sparse":
            assert (tmp_path / "data").stat().st_blocks < full / 4


@pytest.mark.parametrize("block_bytes", [512, 4096])
def test_random_writes_are_read_back(tmp_path: Path, block_bytes: int) -> None:
    with attached("vol", of_zeros(tmp_path, SIZE), block_bytes=block_bytes) as disk:
        tool(*fio(disk, block_bytes), "--iodepth=32", "--fsync=64")


def fio(disk: Disk, block_bytes: int = 512) -> tuple[str, ...]:
    """Writes all of a disk in random order and sizes, and reads it back."""
    return (
        "fio",
        "--name=verify",
        f"--filename={disk.node}",
        "--direct=1",
        "--ioengine=libaio",
        "--rw=randwrite",
        f"--bsrange={block_bytes}-256k",
        f"--blockalign={block_bytes}",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
    )


def test_what_sg3_utils_read(tmp_path: Path) -> None:
    with attached("vol", of_zeros(tmp_path, SIZE)) as disk:
        asked = {
            ("sg_inq",): "Product identification: TCMU device",
            ("sg_readcap",): "Number of logical blocks=32768",
            ("sg_readcap", "--long"): "lbpme=1, lbprz=1",
            ("sg_vpd", "--page=lbpv"): "Unmap command supported (LBPU): 1",
            ("sg_vpd", "--page=bdc"): "Non-rotating medium",
            ("sg_vpd", "--page=bl"): "Maximum unmap LBA count: 2097152",
            ("sg_modes", "--six"): "DpoFua=1",
            ("sg_luns",): "Lun list length = 8",
            ("sg_opcodes", "--opcode=0x93"): "Write same(16)",
            ("sg_turs",): "",
            ("sg_requests",): "",
            ("sg_start", "--stop"): "",
            ("sg_start",): "",
            ("sg_sync", "--16"): "",
        }
        for (program, *options), expected in asked.items():
            assert expected in tool(program, *options, disk.node), program
        assert "Caching" in tool("sg_modes", "--page=8", disk.node)
        assert "ABORTED" not in (said := fails("sg_modes", "--page=0x1c", disk.node)) and "field" in said


def test_what_sg3_utils_change(tmp_path: Path) -> None:
    with attached("vol", of_zeros(tmp_path, SIZE)) as disk:
        write(disk, data := os.urandom(MIB))
        same = tmp_path / "same"
        same.write_bytes(data[:4096])
        tool("sg_verify", "--lba=0", "--count=2048", disk.node)
        tool("sg_verify", "--16", "--lba=0", "--count=8", "--ndo=4096", f"--in={same}", disk.node)
        wrong = fails("sg_verify", "--16", "--lba=8", "--count=8", "--ndo=4096", f"--in={same}", disk.node)
        assert "miscompare" in wrong.lower()
        assert "out of range" in fails("sg_verify", "--lba=32768", "--count=1", disk.node).lower()
        same.write_bytes(data[:512])
        tool("sg_write_same", "--16", "--lba=100", "--num=50", f"--in={same}", disk.node)
        tool("sg_write_same", "--10", "--unmap", "--lba=200", "--num=8", "--in=/dev/zero", disk.node)
        tool("sg_write_same", "--16", "--ndob", "--lba=300", "--num=8", disk.node)
        tool("sg_unmap", "--lba=400,500", "--num=8,16", "--force", disk.node)
        expected = bytearray(data)
        expected[100 * 512 : 150 * 512] = data[:512] * 50
        for lba, count in ((200, 8), (300, 8), (400, 8), (500, 16)):
            expected[lba * 512 : (lba + count) * 512] = bytes(count * 512)
        assert stored(disk)[:MIB] == expected


def test_no_two_disks_have_one_identity(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    def identity(disk: Disk) -> list[str]:
        page = tool("sg_vpd", "--page=di", disk.node)
        return re.findall("0x6001405[0-9a-f]{25}", page) + re.findall(
            "serial number: (.*)", tool("sg_inq", disk.node)
        )

    first, second = of_zeros(tmp_path / "a", SIZE), of_zeros(tmp_path / "b", SIZE)
    with attached("a", first) as a, attached("b", second) as b:
        of_a, of_b = identity(a), identity(b)
        assert len(of_a) == len(of_b) == 2
        assert not set(of_a) & set(of_b)
    with attached("b", second), attached("a", first) as a:
        assert identity(a) == of_a
