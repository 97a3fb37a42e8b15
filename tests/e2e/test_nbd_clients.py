"""The NBD server with the clients that people use: libnbd's, QEMU's, fio."""

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from obdcore import Error, Image, NbdServer
from tests.e2e.disks import MIB, content, fails, read_only, tool, writable

SIZE = 48 * MIB


class Served:
    """A server of one image, with its URIs."""

    def __init__(self, image: Image, directory: Path) -> None:
        self.image = image
        self.socket = directory / "nbd.sock"
        self.errors: list[tuple[str, str]] = []
        self.server = NbdServer(
            {"disk": image},
            f"unix:{self.socket}",
            on_error=lambda name, e: self.errors.append((name, e.kind)),
        )
        self.uri = f"nbd+unix:///disk?socket={self.socket}"

    def all(self) -> bytes:
        return self.image.read_at(0, self.image.size)


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Served]:
    """A read-only image."""
    served = Served(read_only(tmp_path, content(SIZE)), tmp_path)
    yield served
    served.server.stop()


@pytest.fixture(params=["log", "sparse"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    """A writable image over a lower, with either kind of upper."""
    served = Served(writable(tmp_path, data=content(SIZE), sparse=request.param == "sparse"), tmp_path)
    yield served
    served.server.stop()


def info(uri: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tool("nbdinfo", "--json", uri))
    return found


def test_what_a_client_is_told(base: Served) -> None:
    told = info(base.uri)
    export = told["exports"][0]
    assert (told["protocol"], told["structured"]) == ("newstyle-fixed", True)
    assert (export["export-name"], export["export-size"], export["contexts"]) == (
        "disk",
        SIZE,
        ["base:allocation"],
    )
    able = {name for name, can in export.items() if can is True}
    assert able == {"is_read_only", "can_cache", "can_df", "can_flush", "can_multi_conn"}
    sizes = [export[f"block_size_{name}"] for name in ("minimum", "preferred", "maximum")]
    assert sizes == [1, 4096, 32 * MIB]
    assert stat.S_IMODE(os.stat(base.socket).st_mode) == 0o600


def test_what_a_writable_export_can_do(disk: Served) -> None:
    export = info(disk.uri)["exports"][0]
    assert not export["is_read_only"]
    for ability in ("fast_zero", "flush", "fua", "multi_conn", "trim", "zero"):
        assert export[f"can_{ability}"], ability


def test_several_exports_and_the_default_one(tmp_path: Path) -> None:
    images = {}
    for i, name in enumerate(("first", "second")):
        (tmp_path / name).mkdir()
        images[name] = writable(tmp_path / name, size=(i + 1) * MIB)
    server = NbdServer(images, ":0")
    assert server.address.startswith("127.0.0.1:")
    listed = json.loads(tool("nbdinfo", "--list", "--json", f"nbd://{server.address}"))["exports"]
    assert [(e["export-name"], e["export-size"]) for e in listed] == [("first", MIB), ("second", 2 * MIB)]
    assert info(f"nbd://{server.address}")["exports"][0]["export-size"] == MIB
    fails("nbdinfo", f"nbd://{server.address}/third")
    with pytest.raises(Error, match="in use") as raised:
        NbdServer(images, server.address)
    assert raised.value.kind == "exists"
    server.stop()
    fails("nbdinfo", f"nbd://{server.address}")


def test_the_map_shows_the_holes(base: Served) -> None:
    data = base.all()
    runs = json.loads(tool("nbdinfo", "--map", "--json", base.uri))
    assert sum(run["length"] for run in runs) == SIZE
    for run in runs:
        part = data[run["offset"] : run["offset"] + run["length"]]
        assert run["type"] == (3 if part.count(0) == len(part) else 0)
    of_qemu = json.loads(tool("qemu-img", "map", "--output=json", "-f", "raw", base.uri))
    assert [(r["start"], r["length"], r["zero"]) for r in of_qemu] == [
        (r["offset"], r["length"], r["type"] == 3) for r in runs
    ]


def test_copies_out(base: Served, tmp_path: Path) -> None:
    data = base.all()
    out = tmp_path / "out"
    for connections, size in ((1, 262144), (4, 4 * MIB)):
        tool("nbdcopy", f"--connections={connections}", f"--request-size={size}", base.uri, out)
        assert out.read_bytes() == data
    tool("qemu-img", "convert", "-f", "raw", "-O", "raw", base.uri, out)
    assert out.read_bytes() == data
    tool("qemu-img", "compare", "-f", "raw", "-F", "raw", base.uri, out)
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", base.uri, tmp_path / "out.qcow2")
    tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", base.uri, tmp_path / "out.qcow2")


def test_copies_in(disk: Served, tmp_path: Path) -> None:
    source = tmp_path / "source"
    copy = [str(source), disk.uri]
    commands = (
        ["nbdcopy", "--connections=4", "--flush", *copy],
        ["nbdcopy", "--connections=1", "--request-size=32768", "--allocated", *copy],
        ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", *copy],
    )
    for seed, command in enumerate(commands):
        source.write_bytes(data := content(SIZE, seed + 10))
        tool(*command)
        assert disk.all() == data, command
        tool("qemu-img", "compare", "-f", "raw", "-F", "raw", source, disk.uri)


def test_single_requests_of_all_kinds(disk: Served) -> None:
    model = bytearray(disk.all())

    def write(offset: int, length: int, byte: int) -> str:
        model[offset : offset + length] = bytes([byte]) * length
        return f"write -P {byte} {offset} {length}"

    def zero(command: str, offset: int, length: int) -> str:
        model[offset : offset + length] = bytes(length)
        return f"{command} {offset} {length}"

    commands = [
        write(0, 4096, 1),
        write(513, 1, 2),
        write(70_001, 99_999, 3),
        write(8 * MIB - 7, 5 * MIB + 13, 4),
        write(1_000_000, 512, 5).replace("write", "write -f"),
        zero("write -z", 2 * MIB + 1, 70_000),
        zero("write -z -u", 3 * MIB, 1 * MIB),
        zero("write -z -f", 9 * MIB, 4096),
        zero("discard", 10 * MIB, 1 * MIB),
        zero("discard", 11 * MIB + 512, 1024),
        write(SIZE - 100, 100, 6),
        "flush",
    ]
    checks = [f"read -P 4 {8 * MIB - 7} {MIB}", f"read -P 0 {10 * MIB} {MIB}", f"read -P 6 {SIZE - 100} 100"]
    script = "\n".join([*commands, *checks]).encode()
    said = tool("qemu-io", "-f", "raw", disk.uri, stdin=script)
    assert "Pattern verification failed" not in said and "failed" not in said, said
    assert disk.all() == bytes(model)
    assert disk.image.stats()["flushes"] >= 3


def test_what_is_refused(base: Served) -> None:
    assert "Permission denied" in fails("qemu-io", "-f", "raw", base.uri, "-c", "write 0 512")
    fails("nbdcopy", "/dev/zero", base.uri)
    assert base.errors == []


@pytest.mark.parametrize("connections", [1, 4])
def test_random_writes_are_read_back(disk: Served, connections: int) -> None:
    tool(
        "fio",
        "--name=verify",
        "--ioengine=nbd",
        f"--uri={disk.uri}",
        "--rw=randwrite",
        "--bsrange=512-256k",
        "--blockalign=512",
        "--iodepth=16",
        f"--numjobs={connections}",
        f"--size={SIZE // connections}",
        f"--offset_increment={SIZE // connections}",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--fsync=64",
        "--group_reporting",
    )
    assert disk.server.stats()["errors"] == 0


def test_what_was_written_lasts(tmp_path: Path) -> None:
    served = Served(writable(tmp_path, data=content(SIZE)), tmp_path)
    (tmp_path / "new").write_bytes(data := content(SIZE, 5))
    tool("nbdcopy", "--flush", tmp_path / "new", served.uri)
    served.server.stop()
    assert not served.socket.exists()
    served.image.close()
    again = Image([str(tmp_path / "lower")], (str(tmp_path / "upper.data"), str(tmp_path / "upper.index")))
    assert again.read_at(0, SIZE) == data


def test_a_broken_layer_is_an_error_where_it_is_broken(tmp_path: Path) -> None:
    read_only(tmp_path, data := content(SIZE)).close()
    path = tmp_path / "layer"
    stored = bytearray(path.read_bytes())
    middle = len(stored) // 2
    stored[middle] ^= 0xFF
    path.write_bytes(stored)
    served = Served(Image([str(path)]), tmp_path)
    out = tmp_path / "out"
    fails("nbdcopy", served.uri, out)
    read = [f"read -P {data[at]} {at} 1" for at in range(0, SIZE, 65536)]
    done = subprocess.run(
        ["qemu-io", "-r", "-f", "raw", served.uri],
        input="\n".join(read),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("Input/output error") + done.stderr.count("Input/output error") <= 1
    assert "Pattern verification failed" not in done.stdout
    assert served.errors and set(served.errors) == {("disk", "corrupt")}
    assert served.server.stats()["errors"] >= 1
    served.server.stop()


def test_stop_while_clients_are_at_work(base: Served, tmp_path: Path) -> None:
    command = ["qemu-img", "bench", "-f", "raw", "-c", "100000000", "-d", "16", "-s", "4096", base.uri]
    client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while base.server.stats()["requests"] < 100:
        assert client.poll() is None
    stopping = Thread(target=base.server.stop)
    stopping.start()
    stopping.join(timeout=60)
    assert not stopping.is_alive()
    assert base.server.stats()["active"] == 0
    client.communicate(timeout=60)
    assert client.returncode > 0, "the client is told"
