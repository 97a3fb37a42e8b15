"""A device in use, changed through the API and by commands, as real clients do it."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import obd
import obdcore
from obd.api.process import description
from obd.sockets import control_directory
from tests.e2e.api_client import ApiClient
from tests.e2e.commands import ok, run, serving
from tests.e2e.disks import MIB, content, layer, tool
from tests.e2e.servers import free_port
from tests.ref.openapi import Description
from tests.style.tree import ROOT

pytestmark = pytest.mark.usefixtures("run_directory")

SIZE = 32 * MIB
DOCUMENT = (ROOT / "docs" / "api.md").read_text()


class Disk:
    """A writable image over a layer, served by a process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = content(SIZE)
        self.layers = [str(layer(directory / "layer", self.data))]
        self.config = directory / "c.json"
        self.config.write_text(json.dumps(self.describe("upper", self.layers)))
        self.pid = 0
        self.uri = ""

    def describe(self, name: str, layers: list[str], size: int = SIZE) -> dict[str, Any]:
        """A configuration with a new upper; of size 0 it takes that of the device."""
        upper = {key: str(self.directory / f"{name}.{key}") for key in ("data", "index")}
        obdcore.lsmt_create(upper["data"], upper["index"], size=size)
        return {"lowers": [{"file": file} for file in layers], "upper": upper}

    def next(self, name: str, *seals: str) -> Path:
        """The configuration for a snapshot with the upper `name`; `seals` are those before it."""
        layers = [*self.layers, *(str(self.directory / f"{seal}.data") for seal in seals)]
        path = self.directory / f"{name}.json"
        path.write_text(json.dumps(self.describe(name, layers, 0)))
        return path

    @contextmanager
    def served(self, **api: Any) -> Iterator[ApiClient]:
        """While a process serves it: a client at the control socket."""
        service = self.directory / "overlaybd.json"
        service.write_text(json.dumps({"enableAudit": False, "serviceConfig": api}))
        words = ("--nbd", f"unix:{self.directory / 'nbd'}", "--name", "disk", "--service", service)
        with serving(self.config, *words) as (process, uri):
            self.pid, self.uri = process.pid, uri
            yield ApiClient(os.path.join(control_directory(), f"{process.pid}.sock"))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def fio(*words: str) -> None:
    """Runs fio by NBD with verification; it must succeed."""
    tool(
        "fio",
        "--name=x",
        "--ioengine=nbd",
        "--bs=4k",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        *words,
    )


def test_snapshots_under_writes_hold_what_was_acknowledged(disk: Disk) -> None:
    """Meanwhile fio writes and verifies; at the end the image that is opened anew is the same."""
    with disk.served() as client, ThreadPoolExecutor(2) as pool:
        half = SIZE // 2
        job = ("--rw=randwrite", f"--size={half}", "--iodepth=8", f"--uri={disk.uri}", "--loops=3")
        writing = pool.submit(fio, *job, "--randseed=1")
        uppers = ["upper"]
        while not writing.done() and len(uppers) < 20:
            name = f"n{len(uppers)}"
            reply = client.checked(
                "POST", "/v1/devices/disk/snapshot", {"config": str(disk.next(name, *uppers))}
            )
            assert reply.status == 200, reply.body
            assert reply.json["pause_s"] >= 0 and not reply.json["repeated"]
            uppers.append(name)
        writing.result()
        assert len(uppers) > 2, "fio was done before a snapshot under it was"
        copy = disk.directory / "copy"
        tool("nbdcopy", disk.uri, copy)
    assert copy.read_bytes()[half:] == disk.data[half:]
    with obd.open(disk.config) as device:
        assert len(device.sources) == len(uppers)
        assert device.read(0, SIZE) == copy.read_bytes()


def test_two_at_once_do_not_cross(disk: Disk) -> None:
    """Of two snapshots to different uppers one is made; of two to the same both succeed, made once."""
    with disk.served() as client, ThreadPoolExecutor(8) as pool:
        tool("qemu-io", "-f", "raw", "-c", "write -P 7 0 1M", disk.uri)
        one, other = disk.next("one", "upper"), disk.next("other", "upper")

        def take(config: Path) -> Any:
            return client.checked("POST", "/v1/devices/disk/snapshot", {"config": str(config)})

        replies = list(pool.map(take, [one, other]))
        assert sorted(reply.status for reply in replies) == [200, 400]
        won = "one" if replies[0].status == 200 else "other"
        again = list(pool.map(take, [disk.next("next", "upper", won)] * 8))
        assert [reply.status for reply in again] == [200] * 8
        assert sorted(reply.json["repeated"] for reply in again) == [False] + [True] * 7
        upstream = disk.next("last", "upper", won, "next")
        replies = list(
            pool.map(lambda _: client.ask("GET", f"/snapshot?dev_id=disk&config={upstream}"), range(4))
        )
        assert {reply.status for reply in replies} == {200}
        tool("qemu-io", "-r", "-f", "raw", "-c", "read -P 7 0 1M", disk.uri)
    assert len(json.loads(disk.config.read_text())["lowers"]) == 4


def test_commands(disk: Disk) -> None:
    with disk.served():
        files = ("--data", "second.data", "--index", "second.index")
        before = os.getcwd()
        os.chdir(disk.directory)
        try:
            said = ok("obd", "snapshot", "disk", *files, "--sparse").out
            assert re.fullmatch(rf"{disk.directory}/upper\.data: sealed; writes waited [\d.]+ ms\n", said)
            third = disk.next("third", "upper", "second")
            told = json.loads(ok("obd", "snapshot", str(disk.pid), third.name, "--json").out)
            assert told["sealed"] == f"{disk.directory}/second.data"
            assert ok("obd", "snapshot", "disk", third.name).out.endswith("sealed already\n")
        finally:
            os.chdir(before)
        for wrong in ((), ("--data", "/x"), (*files, str(third)), ("--sparse", str(third))):
            done = run("obd", "snapshot", "disk", *wrong)
            assert (done.status, done.out) == (255, "") and len(done.lines) == 1
        assert run("obd", "snapshot", "nobody", str(third)).err.startswith("obd: not-found: ")
        assert ok("obd", "grow", "disk", "64M").out == "32.0 MiB before, 64.0 MiB now\n"
        assert json.loads(tool("nbdinfo", "--json", disk.uri))["exports"][0]["export-size"] == 64 * MIB
        smaller = run("obd", "grow", "disk", "32M")
        assert smaller.status == 255 and smaller.err.startswith("obd: invalid: ")
        assert run("obd", "grow", "disk", "lots").status in (104, 105)
        assert ok("obd", "log-level").out == f"{disk.pid}: warning\n"
        assert ok("obd", "log-level", "debug").out == f"{disk.pid}: debug, it was warning\n"
        assert ok("obd", "log-level", "--process", "disk").out == f"{disk.pid}: debug\n"
        assert run("obd", "log-level", "loud").status == 105
        assert ok("obd", "reload").out == f"{disk.pid}: nothing has changed\n"
        service = disk.directory / "overlaybd.json"
        service.write_text(
            json.dumps({"enableAudit": False, "ioEngine": 0, "cacheType": "ocf", "logLevel": 3})
        )
        assert ok("obd", "reload", str(disk.pid)).out.splitlines() == [
            f"{disk.pid}: logConfig.logLevel counts now",
            f"{disk.pid}: ioEngine counts for devices that are opened from now on",
            f"{disk.pid}: cacheConfig.cacheType needs a restart",
        ]
        assert ok("obd", "log-level").out == f"{disk.pid}: error\n"
        (one,) = json.loads(ok("obd", "reload", "--json").out)
        assert (one["pid"], one["restart"]) == (disk.pid, ["cacheConfig.cacheType"])
        service.write_text('{"ioEngine": 99}')
        done = run("obd", "reload")
        assert done.status == 255 and "ioEngine" in done.err
    assert run("obd", "reload").err == "obd: not-found: no process serves anything here\n"


def commands_of(document: str) -> str:
    """The lines of a document that are commands, in its order."""
    return "".join(re.findall(r"(?:^ {4}.*\n)+", document, re.MULTILINE))


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"),
    reason="attaching needs root, /dev/fuse and /dev/loop-control",
)
def test_the_lines_of_the_document_work_as_they_stand(disk: Disk) -> None:
    disk.next("next", "upper")
    disk.next("fourth", "upper", "next", "third")
    (disk.directory / "image.json").write_text(json.dumps({"lowers": [{"file": disk.layers[0]}]}))
    token = disk.directory / "secret"
    token.write_text("0123456789abcdef0123\n")
    token.chmod(0o600)
    address = f"http://127.0.0.1:{free_port()}"
    script = commands_of(DOCUMENT)
    assert script.count("curl") == 3 and script.count("api ") > 15
    with disk.served(enable=True, address=address, tokenFile=str(token)):
        done = subprocess.run(
            ["sh", "-eux"],
            input=script.encode(),
            cwd=disk.directory,
            env={**os.environ, "token": str(token), "address": address},
            capture_output=True,
            check=False,
        )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    assert b"Snapshot created successfully" in done.stdout
    assert (disk.directory / "disk.trace").stat().st_size >= 24
    described = Description(description())
    asked = set(re.findall(r"/v1/[\w/.-]+", script))
    for _, path, _ in described.operations():
        if path.startswith("/v1/"):
            assert path.replace("{device}", "disk").partition("{")[0] in asked, (
                f"docs/api.md shows nothing of {path}"
            )
    root = json.loads(disk.config.read_text())
    assert root["upper"]["data"] == str(disk.directory / "fourth.data")
