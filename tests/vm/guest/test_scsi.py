"""What a disk on TCMU answers to rarer commands, and how it changes while it is used."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from obd.sockets import ask, device_path
from tests.e2e.disks import MIB, fails, tool
from tests.vm.guest.tcmu_disk import Daemon, Disk, attached, of_data, of_zeros, running
from tests.vm.guest.test_tcmu import fio, mounted, stored, write

SIZE = 16 * MIB
# The commands that a disk has to know, as sg_opcodes writes them.
KNOWN = """
    00 03 08 0a 12 15 1a 1b 25 28 2a 2f 35 41 42 55 5a 88 89 8a 8f 91 93 9e,10 9e,12 a0 a3,c a8 aa af
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


pytestmark = pytest.mark.usefixtures("daemon")


def test_all_commands_are_listed(tmp_path: Path) -> None:
    with attached(tmp_path.name, of_zeros(tmp_path, SIZE)) as disk:
        listed = re.findall("^ ([0-9a-f,]+) ", tool("sg_opcodes", "--compact", disk.node), re.MULTILINE)
        assert listed == KNOWN.split()


@pytest.mark.parametrize("block_bytes", [512, 4096])
def test_compare_and_write_writes_only_where_it_finds_what_it_expects(
    tmp_path: Path, block_bytes: int
) -> None:
    with attached(tmp_path.name, of_zeros(tmp_path, SIZE), block_bytes=block_bytes) as disk:
        write(disk, (old := b"o" * 2 * block_bytes) + b"r" * block_bytes)
        pair = tmp_path / "pair"
        length = f"--xferlen={4 * block_bytes}"
        words = ("sg_compare_and_write", "--lba=0", "--num=2", length, f"--in={pair}", disk.generic)
        pair.write_bytes(old + (new := b"n" * 2 * block_bytes))
        tool(*words)
        assert stored(disk)[: 3 * block_bytes] == new + b"r" * block_bytes
        assert "iscompare" in fails(*words)
        assert stored(disk)[: len(new)] == new


def test_what_is_stored_is_told(tmp_path: Path) -> None:
    with attached(tmp_path.name, of_zeros(tmp_path, SIZE)) as disk:
        write(disk, b"d" * 65536, MIB)
        tool("blkdiscard", "--offset", str(MIB), "--length", "4096", disk.node)
        told = tool("sg_get_lba_status", "--16", "--maxlen=4096", disk.generic)
        found = re.findall(r"LBA: 0x([0-9a-f]+)\s+blocks: +(\d+) +(\w+)", told)
        runs = [(int(first, 16), int(blocks), how) for first, blocks, how in found]
        free = "deallocated"
        assert runs == [(0, 2056, free), (2056, 120, "mapped"), (2176, SIZE // 512 - 2176, free)], told


def test_modes_may_be_said_again_and_not_changed(tmp_path: Path) -> None:
    with attached(tmp_path.name, of_zeros(tmp_path, SIZE)) as disk:
        caching = tool("sg_wr_mode", "--page=8", disk.generic)
        assert re.search("08 12 04", caching)
        same = "08,12,04," + ",".join(["00"] * 17)
        for length in ((), ("--six",)):
            tool("sg_wr_mode", *length, "--page=8", f"--contents={same}", disk.generic)
            other = same.replace("12,04", "12,00")
            said = fails("sg_wr_mode", "-v", *length, "--page=8", f"--contents={other}", disk.generic)
            assert "nvalid field in parameter list" in said
        assert disk.setting("queue/write_cache") == "write back"


def test_a_reset_is_answered_and_the_disk_goes_on(tmp_path: Path) -> None:
    with attached(tmp_path.name, of_zeros(tmp_path, SIZE)) as disk:
        assert (disk.backstore.directory / "attrib/tmr_notification").read_text() == "1\n"
        write(disk, b"before" * 512)
        tool("sg_reset", "--device", disk.generic)
        assert "reset" in fails("sg_turs", "-v", disk.generic).lower()
        tool("sg_turs", disk.generic)
        write(disk, b"after " * 512)
        assert stored(disk)[:3072] == b"after " * 512


def change(daemon: Daemon, disk: Disk, what: str, **content: Any) -> dict[str, Any]:
    """Has the daemon change a disk; its answer."""
    name = f"user_{disk.backstore.hba}/{disk.backstore.name}"
    told: dict[str, Any] = json.loads(
        ask(daemon.process.pid, "POST", f"{device_path(name)}/{what}", content, timeout_s=60)
    )
    return told


@pytest.mark.parametrize("kind", ["log", "sparse"])
def test_a_mounted_disk_grows(daemon: Daemon, tmp_path: Path, kind: str) -> None:
    config = of_zeros(tmp_path, SIZE, kind)
    with attached(tmp_path.name, config) as disk:
        tool("mkfs.ext4", "-q", "-O", "^has_journal", disk.node)
        with mounted(disk, tmp_path / "root") as root:
            (root / "file").write_bytes(b"before")
            change(daemon, disk, "resize", size_bytes=4 * SIZE)
            assert f"Number of logical blocks={4 * SIZE // 512}" in tool("sg_readcap", disk.generic)
            assert int(tool("blockdev", "--getsize64", disk.node)) == 4 * SIZE
            tool("resize2fs", disk.node)
            (root / "large").write_bytes(bytes(range(256)) * (2 * SIZE // 256))
    with attached(tmp_path.name, config) as disk:
        assert int(tool("blockdev", "--getsize64", disk.node)) == 4 * SIZE
        tool("e2fsck", "-fn", disk.node)
        with mounted(disk, tmp_path / "root", "-o", "ro") as root:
            assert (root / "file").read_bytes() == b"before"
            assert (root / "large").read_bytes() == bytes(range(256)) * (2 * SIZE // 256)


@pytest.mark.parametrize("kind", ["log", "sparse"])
def test_snapshots_are_taken_while_it_is_written_to(daemon: Daemon, tmp_path: Path, kind: str) -> None:
    config = of_zeros(tmp_path, 2 * SIZE, kind)
    with attached(tmp_path.name, config) as disk:
        work = subprocess.Popen(
            [*fio(disk), "--loops=2", "--iodepth=8", "--fsync=32"], stdout=subprocess.PIPE
        )
        during = 0
        for number in range(1, 5):
            files = {"data": f"{tmp_path}/data{number}", "index": f"{tmp_path}/index{number}"}
            taken = change(daemon, disk, "snapshot", **files, sparse=number % 2 == 0)
            assert not taken["repeated"]
            during += work.poll() is None
        said = work.communicate(timeout=120)[0].decode()
        assert work.returncode == 0, said
        assert during, "all had been written before a snapshot was taken"
        final = stored(disk)
    settings = json.loads(Path(config.removeprefix("overlaybd/")).read_text())
    assert [Path(lower["file"]).name for lower in settings["lowers"]] == ["data", "data1", "data2", "data3"]
    with attached(tmp_path.name, config) as disk:
        assert stored(disk) == final


def test_a_read_only_disk_takes_no_snapshot_and_does_not_grow(daemon: Daemon, tmp_path: Path) -> None:
    with attached(tmp_path.name, of_data(tmp_path, b"x" * MIB)) as disk:
        for what, content in (
            ("snapshot", {"data": f"{tmp_path}/d", "index": f"{tmp_path}/i"}),
            ("resize", {"size_bytes": SIZE}),
        ):
            with pytest.raises(OSError, match="read-only"):
                change(daemon, disk, what, **content)
        words = ("sg_compare_and_write", "--lba=0", "--num=1", "--in=/dev/zero")
        assert "protect" in fails(*words, disk.generic).lower()
