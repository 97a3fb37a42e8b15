"""Devices by FUSE and a loop device while something goes wrong: process, registry, cache, disk, memory."""

import errno
import json
import os
import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import obd.attach
from obd.attach.ways import way
from obd.state import StateDirectory
from tests.e2e.commands import ok
from tests.e2e.disks import MIB, tool
from tests.rigs.attached import Attached, attached, lack_of_guards, until, working
from tests.rigs.images import KINDS, Store
from tests.rigs.load import Load, spread
from tests.rigs.rounds import MORE, ROUNDS, seeds
from tests.rigs.stamps import BASE

SIZE = 8 * MIB
CGROUP = Path("/sys/fs/cgroup/memory")

pytestmark = [
    pytest.mark.skipif(bool(missing := way("fuse").missing()), reason=f"no device here: {missing}"),
    pytest.mark.timeout(300 * ROUNDS),
]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Attachments of this test only, none of which is left."""
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(tmp_path / "run"))
    yield
    for one in obd.attach.attachments():
        obd.attach.detach(one.name)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the upper."""
    name: str = request.param
    return name


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path, SIZE) as store:
        yield store


def loads_on(device: Attached, seed: int) -> list[Load]:
    return spread(device.path, SIZE, parts=2, seed=seed, base=BASE)


def go_on(device: Attached, loads: list[Load]) -> None:
    """The device is there again: all that was acknowledged is, and there may be no more errors."""
    for load in loads:
        load.path = device.path
        load.fragile.clear()
        load.verify()


def test_a_registry_that_is_away_and_a_cache_that_is_deleted(tmp_path: Path, store: Store, kind: str) -> None:
    for seed in seeds():
        store.delete_cache()
        with (
            attached(store.image(tmp_path / f"{seed}", kind)) as device,
            working(loads_on(device, seed)) as loads,
        ):
            for load in loads:
                load.wait(2)
            store.registry.kill()
            store.delete_cache()
            try:
                until(lambda: device.fetches_failed(), "nothing is asked of the registry")
            finally:
                store.registry.start()
            for load in loads:
                load.wait(50 * MORE)
                store.delete_cache()


def test_a_process_that_is_killed(tmp_path: Path, store: Store, kind: str) -> None:
    for seed in seeds():
        numbers = random.Random(seed)
        with attached(store.image(tmp_path / f"{seed}", kind)) as device:
            loads = loads_on(device, seed)
            for _ in range(2 * MORE):
                for load in loads:
                    load.start()
                    load.wait(numbers.randrange(10, 100))
                    load.fragile.set()
                device.kill()
                for load in loads:
                    load.until(lambda load=load: load.last_error, "error")  # type: ignore[misc]
                    load.stop()
                    load.last_error = 0
                device.detach()
                device.attach()
                go_on(device, loads)
        # Nor does anything get lost when it is closed in order.
        with attached(device.image) as device:
            go_on(device, loads)


@pytest.mark.skipif(bool(lack_of_guards()), reason=lack_of_guards() or "none")
def test_a_server_that_is_killed(tmp_path: Path, store: Store, kind: str) -> None:
    """Another one takes its place: users wait, also with requests that it had taken and not answered."""
    for seed in seeds():
        numbers = random.Random(seed)
        store.delete_cache()
        with (
            attached(store.image(tmp_path / f"{seed}", kind)) as device,
            working(loads_on(device, seed)) as loads,
        ):
            # At first, as long as not all of the device has been written.
            store.registry.kill()
            store.delete_cache()
            try:
                until(lambda: device.fetches_failed(), "nothing is asked of the registry")
                device.kill_server()
            finally:
                store.registry.start()
            device.wait_for_server()
            for _ in range(2):
                for load in loads:
                    load.wait(numbers.randrange(10, 100))
                device.kill_server()
                device.wait_for_server()
            for load in loads:
                load.wait(50 * MORE)


@contextmanager
def small_disk(directory: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes."""
    directory.mkdir()
    tool("mount", "-t", "tmpfs", "-o", f"size={size}", "small", directory)
    try:
        yield directory
    finally:
        tool("umount", directory)


def test_a_disk_that_runs_full(tmp_path: Path, store: Store, kind: str) -> None:
    for seed in seeds():
        with small_disk(tmp_path / f"{seed}", MIB) as small:
            image = store.image(small, kind)
            with attached(image) as device:
                loads = loads_on(device, seed)
                for load in loads:
                    load.fragile.set()
                    load.start()
                for load in loads:
                    load.until(lambda load=load: load.failed > 5, "full disk")  # type: ignore[misc]
                    assert load.last_error in (errno.ENOSPC, errno.EIO)
                for load in loads:
                    load.stop()
                for load in loads:
                    load.verify()
            # It opens while the disk is full, and nothing is lost.
            with attached(image) as device:
                go_on(device, loads)
                tool("mount", "-o", f"remount,size={MORE * 256 * MIB}", small)
                with working(loads):
                    for load in loads:
                        load.wait(100)
            with attached(image) as device:
                go_on(device, loads)


def test_a_cache_on_a_disk_that_is_full(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with small_disk(tmp_path / "cache", MIB), Store(tmp_path, SIZE) as store:
        for seed in seeds():
            image = store.image(tmp_path / f"{seed}")
            with attached(image, writes=False) as device:
                loads = spread(device.path, SIZE, parts=2, seed=seed, base=BASE, writes=False)
                with working(loads):
                    for load in loads:
                        load.wait(30 * MORE)


def test_no_more_descriptors(tmp_path: Path, store: Store) -> None:
    """A process that may open nothing fails or delays what it cannot do, and keeps the device."""
    with attached(store.image(tmp_path / "image", "log")) as device:
        loads = loads_on(device, 1)
        for load in loads:
            load.fragile.set()
        with working(loads), no_descriptors(device.pid):
            for load in loads:
                load.until(lambda load=load: load.done or load.failed, "answer")  # type: ignore[misc]
            store.registry.kill()  # so that connections are to be made
            store.registry.start()
            time.sleep(2.5)  # no event: it looks after its device every second, and shall not find it gone
        for load in loads:
            load.fragile.clear()
        with working(loads):
            for load in loads:
                load.wait(50 * MORE)


@pytest.mark.skipif(not os.access(CGROUP, os.W_OK), reason=f"no memory controller at {CGROUP}")
def test_little_memory(tmp_path: Path, store: Store, kind: str) -> None:
    """With its page cache included a process gets on with 40 MiB."""
    group = CGROUP / f"rigs-{os.getpid()}"
    with attached(store.image(tmp_path / "image", kind)) as device:
        group.mkdir()
        try:
            (group / "cgroup.procs").write_text(str(device.pid))
            (group / "memory.limit_in_bytes").write_text(str(40 * MIB))
            with working(loads_on(device, 1)) as loads:
                for load in loads:
                    load.wait(60 * MORE)
            assert "oom_kill 0" in (group / "memory.oom_control").read_text().splitlines()
        finally:
            (CGROUP / "cgroup.procs").write_text(str(device.pid))
            group.rmdir()


def _open_files(pid: int) -> Iterator[str]:
    for fd in Path("/proc", str(pid), "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(fd)


def test_a_mount_is_kept_by_a_process_that_may_open_nothing(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content")
    tool("mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "tree", tmp_path / "raw", "8m")
    ok("obd", "import", tmp_path / "raw", tmp_path / "layer")
    (config := tmp_path / "image.json").write_text(
        json.dumps({"lowers": [{"file": str(tmp_path / "layer")}]})
    )
    (point := tmp_path / "mnt").mkdir()
    (other := tmp_path / "other").mkdir()
    ok("obd", "mount", config, point)
    try:
        known = StateDirectory("mounts", str(point)).read()
        assert known is not None
        until(lambda: any("mountinfo" in name for name in _open_files(known.pid)), "not ready")
        with no_descriptors(known.pid):
            for _ in range(20):  # it is told of each, looks, and cannot see
                tool("mount", "-t", "tmpfs", "other", other)
                tool("umount", other)
        assert (point / "file").read_text() == "content"
    finally:
        ok("obd", "umount", point)


@contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """A process may open nothing more for a while."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def test_files_that_may_not_grow(tmp_path: Path, store: Store, kind: str) -> None:
    image = store.image(tmp_path / "image", kind)
    with attached(image) as device:
        loads = loads_on(device, 1)
        soft, hard = resource.prlimit(device.pid, resource.RLIMIT_FSIZE)
        for load in loads:
            load.fragile.set()
        with working(loads):
            for load in loads:
                load.wait(10)
            resource.prlimit(device.pid, resource.RLIMIT_FSIZE, (2 * MIB, hard))
            for load in loads:
                load.until(lambda load=load: load.failed > 5, "error")  # type: ignore[misc]
            resource.prlimit(device.pid, resource.RLIMIT_FSIZE, (soft, hard))
            for load in loads:
                load.until(lambda load=load, was=load.failed: load.done, "more")  # type: ignore[misc]
        for load in loads:
            load.fragile.clear()
        with working(loads):
            for load in loads:
                load.wait(50)
    with attached(image) as device:
        go_on(device, loads)
