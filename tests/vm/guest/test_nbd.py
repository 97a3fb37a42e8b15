"""The kernel's own NBD client on `obd serve`: what `/dev/nbd0` does as the device of an image."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import pytest

from obdcore import lsmt_create
from tests.e2e.commands import BIN
from tests.e2e.disks import MIB, content, fails, layer, tool
from tests.vm.boot import PROJECT

DEVICE = Path("/dev/nbd0")
QUEUE = Path("/sys/block/nbd0/queue")
TREE = PROJECT / "docs"  # some files
SIZE = 8 * MIB
END_S = 120.0
FIO = (
    "fio",
    "--name=verify",
    f"--filename={DEVICE}",
    "--direct=1",
    "--ioengine=libaio",
    "--rw=randwrite",
    "--bsrange=512-256k",
    "--blockalign=512",
    "--verify=crc32c",
    "--verify_fatal=1",
    "--verify_state_save=0",
)


class Disk:
    """An image in a directory, served on a socket, for the kernel to attach as `DEVICE`."""

    def __init__(self, directory: Path, config: dict[str, object]) -> None:
        self._config = directory / "config.json"
        self._config.write_text(json.dumps(config))
        self.socket = directory / "socket"
        self.serve()

    def serve(self) -> None:
        """Starts the server, and waits until it is ready."""
        self.socket.unlink(missing_ok=True)  # a killed server leaves it
        command: list[str | Path] = [BIN / "obd", "serve", self._config, "--nbd", f"unix:{self.socket}"]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._server.stdout is not None
        with self._server.stdout as said:
            assert said.readline().startswith(b"ready: ")

    def attach(self, *options: str) -> None:
        tool("nbd-client", "-unix", self.socket, DEVICE, *options)

    def end(self, number: signal.Signals) -> None:
        """Ends the server by a signal."""
        self._server.send_signal(number)
        assert self._server.wait(END_S) == (-number if number == signal.SIGKILL else 0)

    def again(self) -> None:
        """Attaches the image anew, with nothing that the kernel remembers, nor the server."""
        detach()
        self.end(signal.SIGTERM)
        self.serve()
        self.attach()

    def descriptors(self) -> int:
        """How many descriptors the server has open."""
        return len(os.listdir(f"/proc/{self._server.pid}/fd"))

    def __enter__(self) -> "Disk":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        detach()
        self._server.kill()
        self._server.wait(END_S)


def read_only(directory: Path, data: bytes) -> Disk:
    """A served image that holds `data`."""
    return Disk(directory, {"lowers": [{"file": str(layer(directory / "layer", data))}]})


def writable(directory: Path, size: int, kind: str = "log") -> Disk:
    """A served image of `size` zeros, with an upper of a kind."""
    upper = {"data": str(directory / "data"), "index": str(directory / "index")}
    lsmt_create(upper["data"], upper["index"], size=size, sparse=kind == "sparse")
    return Disk(directory, {"lowers": [], "upper": upper})


def detach() -> None:
    """Takes the device away; what had been attached is said to be gone in time for the next one."""
    tool("nbd-client", "-d", DEVICE)


@contextmanager
def mounted(directory: Path, *options: str) -> Iterator[Path]:
    """The device's file system on a directory."""
    directory.mkdir(exist_ok=True)
    tool("mount", *options, DEVICE, directory)
    try:
        yield directory
    finally:
        tool("umount", directory)


def write(path: Path, data: bytes) -> None:
    """Writes a file or device, durably."""
    with path.open("r+b" if path.exists() else "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def stored() -> bytes:
    """All bytes of the device, from the server."""
    tool("blockdev", "--flushbufs", DEVICE)
    with DEVICE.open("rb") as device:
        size = device.seek(0, os.SEEK_END)
        device.seek(0)
        return device.read(size)


def sectors_written() -> int:
    """How much has been written to the device since the guest was booted."""
    return int(Path("/sys/block/nbd0/stat").read_text().split()[6])


@pytest.fixture(autouse=True)
def module() -> None:
    tool("modprobe", "nbd")


@pytest.mark.parametrize("size", [MIB + 512, 8 << 40], ids=["odd", "large"])
def test_the_device_is_as_large_as_the_image(tmp_path: Path, size: int) -> None:
    with writable(tmp_path, size) as disk:
        disk.attach()
        assert int(tool("blockdev", "--getsize64", DEVICE)) == size
        assert tool("blockdev", "--getro", DEVICE).strip() == "0"
        end = b"the end".ljust(512)
        with DEVICE.open("r+b") as device:
            device.seek(size - 512)
            device.write(end)
        disk.again()
        with DEVICE.open("rb") as device:
            device.seek(size - 512)
            assert device.read() == end


def test_what_the_kernel_learns_of_a_writable_image(tmp_path: Path) -> None:
    with writable(tmp_path, SIZE) as disk:
        disk.attach("-block-size", "4096")
        told = {
            name: (QUEUE / name).read_text().strip() for name in ("logical_block_size", "write_cache", "fua")
        }
        assert told == {"logical_block_size": "4096", "write_cache": "write back", "fua": "1"}
        assert int((QUEUE / "discard_max_bytes").read_text()) > 0


def test_a_read_only_image_is_read_and_cannot_be_written(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.touch()
    os.truncate(raw, SIZE)
    tool("mkfs.ext4", "-q", "-d", TREE, raw)
    data = raw.read_bytes()
    with read_only(tmp_path, data) as disk:
        disk.attach()
        assert tool("blockdev", "--getro", DEVICE).strip() == "1"
        assert stored() == data
        with mounted(tmp_path / "root", "-o", "ro") as root:
            tool("diff", "-r", "--exclude=lost+found", TREE, root)
        tool("blockdev", "--setrw", DEVICE)  # to no avail
        with pytest.raises(PermissionError):
            write(DEVICE, b"x" * 4096)
        fails("blkdiscard", "--force", DEVICE)
        assert stored() == data


@pytest.mark.parametrize(
    ("kind", "make", "size"),
    [("log", "ext4", 64 * MIB), ("sparse", "ext4", 64 * MIB), ("log", "xfs", 300 * MIB)],
)
def test_a_file_system_lives_on_it(tmp_path: Path, kind: str, make: str, size: int) -> None:
    with writable(tmp_path, size, kind) as disk:
        disk.attach()
        tool(f"mkfs.{make}", "-q", DEVICE)
        with mounted(tmp_path / "root") as root:
            tool("cp", "-a", TREE, root)
            tool("cp", "-a", TREE, root / "second")
            tool("rm", "-r", root / TREE.name)
            tool("fstrim", root)
        disk.again()
        tool(*{"ext4": ("e2fsck", "-fn"), "xfs": ("xfs_repair", "-n")}[make], DEVICE)
        with mounted(tmp_path / "root", "-o", "ro") as root:
            tool("diff", "-r", TREE, root / "second")


@pytest.mark.parametrize("kind", ["log", "sparse"])
def test_what_is_discarded_reads_as_zeros(tmp_path: Path, kind: str) -> None:
    with writable(tmp_path, SIZE, kind) as disk:
        disk.attach()
        write(DEVICE, data := os.urandom(SIZE))
        full = (tmp_path / "data").stat().st_blocks
        tool("blkdiscard", "--offset", str(2 * MIB), "--length", str(4 * MIB), DEVICE)
        expected = data[: 2 * MIB] + bytes(4 * MIB) + data[6 * MIB :]
        assert stored() == expected
        disk.again()
        assert stored() == expected
        tool("blkdiscard", DEVICE)
        assert stored() == bytes(SIZE)
        if kind == "sparse":
            assert (tmp_path / "data").stat().st_blocks < full / 10


@pytest.mark.parametrize("connections", [1, 4])
def test_random_writes_are_read_back(tmp_path: Path, connections: int) -> None:
    with writable(tmp_path, SIZE) as disk:
        disk.attach("-connections", str(connections))
        tool(*FIO, "--iodepth=16", "--fsync=64")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_ends_is_an_error_and_loses_nothing_flushed(
    tmp_path: Path, number: signal.Signals
) -> None:
    data = content(4 * MIB)
    with writable(tmp_path, 64 * MIB) as disk:
        disk.attach()
        tool("mkfs.ext4", "-q", DEVICE)
        with mounted(tmp_path / "root") as root:
            write(root / "kept", data)
            tool("sync", "-f", root)
            disk.end(number)
            with pytest.raises(OSError, match=r"Input/output error|Read-only"):
                write(root / "lost", data)
        detach()
        disk.serve()
        disk.attach()
        with mounted(tmp_path / "root") as root:
            assert (root / "kept").read_bytes() == data
        tool("e2fsck", "-fn", DEVICE)


def test_clients_that_come_and_go_leave_nothing_in_the_server(tmp_path: Path) -> None:
    with read_only(tmp_path, data := content(MIB)) as disk:
        before = disk.descriptors()
        for _ in range(5):
            disk.attach("-connections", "2")
            assert DEVICE.read_bytes() == data
            detach()
        end = time.monotonic() + END_S
        while disk.descriptors() > before:  # the last one may still be on its way out
            assert time.monotonic() < end
            time.sleep(0.01)
