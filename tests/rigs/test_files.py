"""File systems on devices by FUSE and a loop device: cases, and files that outlive whoever served them."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import obd.attach
from obd.attach.ways import way
from tests.e2e.commands import ok
from tests.e2e.disks import MIB, tool
from tests.rigs import files
from tests.rigs.attached import Attached, attached
from tests.rigs.images import KINDS, Store
from tests.rigs.rounds import LONG, MORE, ROUNDS, seeds

SIZE = 64 * MIB
FSX = Path(__file__).resolve().parents[2] / ".venv/rigs/bin/fsx"

pytestmark = [
    pytest.mark.skipif(bool(missing := way("fuse").missing()), reason=f"no device here: {missing}"),
    pytest.mark.timeout(240 * ROUNDS),
]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(tmp_path / "run"))
    yield
    for one in obd.attach.attachments():
        obd.attach.detach(one.name)


@pytest.fixture(params=KINDS if LONG else KINDS[:1])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the upper."""
    name: str = request.param
    return name


@pytest.fixture(params=["ext4", "xfs"] if LONG else ["ext4"])
def system(request: pytest.FixtureRequest) -> str:
    """The file system."""
    name: str = request.param
    return name


@pytest.fixture
def store(tmp_path: Path, system: str) -> Iterator[Store]:
    """A registry with an image in which an empty file system is."""
    size = SIZE if system == "ext4" else 320 * MIB  # the least that mkfs.xfs takes is 300
    with (tmp_path / "raw").open("wb") as raw:
        raw.truncate(size)
    tool(f"mkfs.{system}", "-q", tmp_path / "raw")
    ok("obd", "import", "-z", tmp_path / "raw", tmp_path / "layer")
    with Store(tmp_path, size, layers=[tmp_path / "layer"]) as store:
        yield store


@contextmanager
def mounted(device: Attached, point: Path) -> Iterator[Path]:
    """The file system of a device, with discard."""
    point.mkdir(exist_ok=True)
    tool("mount", "-o", "discard", device.path, point)
    try:
        yield point
    finally:
        tool("umount", point)


@pytest.mark.parametrize("case", files.CASES, ids=lambda case: case.__name__)
def test_cases(tmp_path: Path, store: Store, system: str, kind: str, case: files.Case) -> None:
    for seed in seeds():
        with attached(store.image(tmp_path / f"{seed}", kind)) as device:
            with mounted(device, tmp_path / "mnt") as root:
                case(root, seed, 12 * MORE)
            files.fsck(system, device.path)


def test_what_was_durable_is_there_after_a_kill(tmp_path: Path, store: Store, system: str, kind: str) -> None:
    """The process that serves the device is killed, or the file system is stopped where it stands."""
    for seed in seeds():
        with attached(store.image(tmp_path / f"{seed}", kind)) as device:
            for stop in (device.kill, lambda: files.shut_down(tmp_path / "mnt")):
                with mounted(device, tmp_path / "mnt") as root:
                    load = files.Durable(root, seed).start()
                    load.wait(8 * MORE)
                    store.delete_cache()
                    stop()
                    load.stop()
                if stop == device.kill:
                    device.detach()
                    device.attach()
                with mounted(device, tmp_path / "mnt"):
                    load.check()
                    shutil.rmtree(root / "lost+found", ignore_errors=True)
                    for path in root.iterdir():
                        path.unlink()
                files.fsck(system, device.path)


@contextmanager
def disturbed(store: Store) -> Iterator[None]:
    """The registry goes away again and again, and the cache with it."""
    over = threading.Event()

    def disturb() -> None:
        while not over.wait(1):
            store.registry.kill()
            store.delete_cache()
            over.wait(1)
            store.registry.start()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.skipif(not LONG, reason="runs in `make rigs`, which brings what it needs")
@pytest.mark.parametrize("program", ["fsx", "stress-ng"])
def test_exercisers(tmp_path: Path, store: Store, system: str, kind: str, program: str) -> None:
    with attached(store.image(tmp_path / "image", kind)) as device:
        with mounted(device, tmp_path / "mnt") as root, disturbed(store):
            for seed in seeds():
                if program == "fsx":
                    files.fsx(str(FSX), root, seed, 5000)
                else:
                    files.stress(root, seed, 10)
        files.fsck(system, device.path)
