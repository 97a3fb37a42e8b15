"""The switch-over of a background download under fio, which verifies every block that it reads."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from obd.push import Repository
from obd.registry import Registry
from obd.sockets import processes, statistics
from obd.state import StateDirectory
from tests.e2e import fio, servers
from tests.e2e.commands import names, ok, run, serving

pytestmark = pytest.mark.usefixtures("run_directory")

SIZE = 12 << 20
PATIENCE_S = 60.0
# So slow that readers are at work before, during and after it.
MIB_PER_S = 6

mounting = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"),
    reason="mounting needs root, /dev/fuse and /dev/loop-control",
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer of nothing but blocks that fio knows."""
    home = tmp_path_factory.mktemp("disk")
    fio.write(home / "raw", SIZE)
    ok("obd", "import", "-z", "-t", home / "raw", home / "layer")
    return home / "layer"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer with a file system, in which a file of such blocks is."""
    home = tmp_path_factory.mktemp("tree")
    (home / "root").mkdir()
    fio.write(home / "root" / "data", SIZE)
    with (home / "raw").open("wb") as file:
        file.truncate(SIZE * 2)
    options = ["-q", "-t", "ext4", "-E", "lazy_itable_init=0", "-d", str(home / "root")]
    subprocess.run(["mke2fs", *options, str(home / "raw")], check=True)
    ok("obd", "import", "-z", "-t", home / "raw", home / "layer")
    return home / "layer"


class Image:
    """An image of one layer, pushed to `registry`; its directory of layers is `dir`."""

    def __init__(self, home: Path, registry: servers.Registry, layer: Path, **download: Any) -> None:
        digest = Repository(Registry(), registry.repository("a/b")).push_file(str(layer)).digest
        self.dir, self.file, self.service = home / "dir", home / "config.v1.json", home / "overlaybd.json"
        self.dir.mkdir()
        lower = {"digest": digest, "size": layer.stat().st_size, "dir": str(self.dir)}
        settings = {"enable": True, "delay": 0, "delayExtra": 1, "maxMBps": MIB_PER_S, **download}
        base = registry.repository("a/b")
        self.file.write_text(
            json.dumps({"repoBlobUrl": f"{base}/blobs", "lowers": [lower], "download": settings})
        )
        cache = {"cacheType": "file", "cacheDir": str(home / "cache"), "cacheSizeGB": 1}
        self.service.write_text(json.dumps({"cacheConfig": cache}))


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def layer_of(pid: int) -> dict[str, Any]:
    """What `obd stat` says of the only layer of a process."""
    (device,) = statistics(pid)["devices"]
    assert device["errors"] == 0
    (layer,) = device["layers"]
    assert isinstance(layer, dict)
    return layer


def through_the_switch(
    image: Image, pid: int, registry: servers.Registry, readers: list[fio.Reader], forget: Callable[[], None]
) -> None:
    """Waits for the switch under `readers`, ends the registry, and has them read on without it."""

    def all_read(passes: int) -> None:
        goals = [reader.passes + passes for reader in readers]
        until(
            lambda: all(r.problem or r.passes >= goal for r, goal in zip(readers, goals, strict=True)),
            "fio does not get on",
        )
        assert [reader.problem for reader in readers] == [""] * len(readers)

    until(lambda: layer_of(pid)["state"] == "switched", "not switched over")
    assert names(image.dir) == ["overlaybd.commit"]
    # Passes that began before the switch end; then the registry may.
    all_read(1)
    registry.stop()
    asked = layer_of(pid)["requests"]
    forget()
    all_read(2)
    assert layer_of(pid)["requests"] == asked, "nothing is asked of the registry any more"


def test_under_obd_serve(tmp_path: Path, disk: Path) -> None:
    with servers.Registry(tmp_path / "registry") as registry:
        image = Image(tmp_path, registry, disk)
        address = f"unix:{tmp_path / 'socket'}"
        with serving(image.file, "--nbd", address, "--service", image.service) as (process, uri):
            where = ["--ioengine=nbd", f"--uri={uri}"]
            quick = fio.Reader(SIZE, *where, "--iodepth=8")
            # Its passes last for a while, so that there are connections that live through the switch.
            steady = fio.Reader(SIZE, *where, "--iodepth=2", "--rate=12m")
            with quick, steady:
                through_the_switch(image, process.pid, registry, [quick, steady], lambda: None)
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
            assert process.stderr is not None and process.stderr.read() == b""


@mounting
def test_under_obd_mount(tmp_path: Path, tree: Path) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    with servers.Registry(tmp_path / "registry") as registry:
        image = Image(tmp_path, registry, tree)
        ok("obd", "mount", "--service", image.service, image.file, point)
        try:
            state = StateDirectory("mounts", str(point))
            known = state.read()
            assert known is not None

            def forget() -> None:
                """Empties the kernel's memory of the disk, so that the readers come to us again."""
                with open(os.path.join(state.path, "fuse", "disk"), "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

            until(lambda: known.pid in processes(), "no control socket")
            with fio.Reader(SIZE, f"--filename={point / 'data'}", "--ioengine=psync", "--direct=1") as reader:
                through_the_switch(image, known.pid, registry, [reader], forget)
            log = Path(state.log).read_text()
            assert "WARNING" not in log and "ERROR" not in log
        finally:
            ok("obd", "umount", point)


@mounting
def test_unmounting_does_not_wait_for_the_download(tmp_path: Path, tree: Path) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    with servers.Registry(tmp_path / "registry") as registry:
        image = Image(tmp_path, registry, tree, maxMBps=1)
        ok("obd", "mount", "--service", image.service, image.file, point)
        try:
            until((image.dir / ".download.progress").exists, "the download does not begin")
        finally:
            begin = time.monotonic()
            done = run("obd", "umount", point)
            print(f"unmounted after {time.monotonic() - begin:.2f} s")
        assert (done.status, done.err) == (0, "")
        # The rest would have taken it far longer.
        left = set(names(image.dir))
        assert {".download", ".download.progress"} <= left, "kept for the next time"
        assert "overlaybd.commit" not in left
        assert not os.path.exists(StateDirectory("mounts", str(point)).path)
