"""A FUSE server that is killed: another one takes its place, and who uses the device only waits."""

import json
import mmap
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest

import obd.attach
from obd.attach import guard
from obd.attach.ways import way
from obd.state import StateDirectory
from tests.e2e.commands import end, kill_with_guard, ok
from tests.e2e.disks import tool
from tests.rigs.attached import lack_of_guards, until

MIB = 1 << 20
SIZE = 4 * MIB
DATA = os.urandom(SIZE)
PIECE = 16 << 10

_LACK = way("fuse").missing() or lack_of_guards()
pytestmark = pytest.mark.skipif(bool(_LACK), reason=f"a FUSE server cannot be replaced here: {_LACK}")


@pytest.fixture(autouse=True)
def nothing_left(run_directory: Path) -> Iterator[None]:
    yield
    assert not obd.attach.attachments()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image that can be written to, over one layer."""
    (tmp_path / "raw").write_bytes(DATA)
    ok("obd", "import", tmp_path / "raw", tmp_path / "layer")
    pair = {"data": str(tmp_path / "data"), "index": str(tmp_path / "index")}
    ok("overlaybd-create", pair["data"], pair["index"], "0")
    document = {"lowers": [{"file": str(tmp_path / "layer")}], "upper": pair}
    (tmp_path / "image.json").write_text(json.dumps(document))
    return tmp_path / "image.json"


def server(image: Path) -> int:
    """The process that serves it now."""
    known = obd.attach.find(image)
    assert known is not None
    return known.pid


def parent(pid: int) -> int:
    return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])


def kill(image: Path) -> None:
    """Kills the server and waits for the next one."""
    pid = server(image)
    above = parent(pid)
    end(pid, signal.SIGKILL)
    until(lambda: server(image) not in (pid, above), "no other server")


def test_who_writes_and_reads_only_waits(image: Path) -> None:
    path = obd.attach.attach(image, via="fuse", rw=True).path
    stop, moved, wrong = Event(), Event(), []

    def work() -> None:
        numbers, pieces = random.Random(1), SIZE // PIECE
        wanted = {at: DATA[at * PIECE : (at + 1) * PIECE] for at in range(pieces)}
        file = os.open(path, os.O_RDWR | os.O_DIRECT)
        with mmap.mmap(-1, PIECE) as piece:
            while not stop.is_set():
                at = numbers.randrange(pieces)
                if numbers.random() < 0.5:
                    piece[:] = wanted[at] = numbers.randbytes(PIECE)
                    os.pwritev(file, [piece], at * PIECE)
                os.preadv(file, [piece], at * PIECE)
                if piece[:] != wanted[at]:
                    raise ValueError(f"other bytes at {at}")
                moved.set()
        os.close(file)

    def watched() -> None:
        try:
            work()
        except Exception as error:
            wrong.append(error)
            moved.set()

    worker = Thread(target=watched)
    worker.start()
    for _ in range(5):
        moved.clear()
        assert moved.wait(60)
        kill(image)
    moved.clear()
    assert moved.wait(60)
    stop.set()
    worker.join()
    assert not wrong
    obd.attach.detach(image)


def _is_another(state: StateDirectory, *pids: int) -> bool:
    known = state.read()
    return known is not None and known.pid not in pids


def test_a_mount_stays(tmp_path: Path) -> None:
    raw, point = tmp_path / "raw", tmp_path / "point"
    with raw.open("wb") as file:
        file.truncate(SIZE)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_text("a")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "tree", raw], check=True)
    ok("obd", "import", raw, tmp_path / "layer")
    image = tmp_path / "image.json"
    image.write_text(json.dumps({"lowers": [{"file": str(tmp_path / "layer")}]}))
    point.mkdir()
    ok("obd", "mount", image, point)
    state = StateDirectory("mounts", str(point))
    for _ in range(2):
        known = state.read()
        assert known is not None
        first, above = known.pid, parent(known.pid)
        end(first, signal.SIGKILL)
        until(partial(_is_another, state, first, above), "no other server")
        subprocess.run(["blockdev", "--flushbufs", known.path], check=True)
        assert (point / "a").read_text() == "a"
    ok("obd", "umount", point)
    assert not os.path.exists(state.path)


def test_an_image_that_cannot_be_opened_is_tried_again(image: Path) -> None:
    path = obd.attach.attach(image, via="fuse").path
    log = Path(StateDirectory("attach", str(image)).log)
    layer = image.parent / "layer"
    layer.rename(image.parent / "away")
    end(server(image), signal.SIGKILL)
    until(lambda: "cannot be served again yet" in log.read_text(), "nobody tries")
    assert server(image), "it is not dead"
    (image.parent / "away").rename(layer)
    assert Path(path).read_bytes() == DATA
    until(lambda: "is served again" in log.read_text(), "the guard does not know of it")
    layer.rename(image.parent / "away")
    end(server(image), signal.SIGKILL)
    until(lambda: log.read_text().count("cannot be served again yet") > 1, "nobody tries")
    assert obd.attach.detach(image), "also while nobody serves it"
    shutil.move(image.parent / "away", layer)


def test_no_room_for_the_state_is_no_reason_to_give_it_up(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run := tmp_path / "full").mkdir()
    tool("mount", "-t", "tmpfs", "-o", "size=256k", "full", run)
    try:
        monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(run))
        path = obd.attach.attach(image, via="fuse").path
        with (run / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
            while True:
                filler.write(bytes(4096))
        pid = server(image)
        end(pid, signal.SIGKILL)
        assert Path(path).read_bytes() == DATA
        assert server(image) == pid, "it could not say otherwise"
        (run / "filler").unlink()
        until(lambda: server(image) != pid, "nobody says who serves it")
        assert obd.attach.detach(image)
        assert not obd.attach.attachments()
    finally:
        tool("umount", "--lazy", run)  # the guard is just ending


def test_servers_that_die_all_the_time_are_not_started_for_ever(image: Path) -> None:
    obd.attach.attach(image, via="fuse")
    for _ in range(guard.DEATHS - 1):
        kill(image)
    above = parent(server(image))
    end(server(image), signal.SIGKILL)
    end(above, 0)
    obd.attach.detach(image)


def test_without_the_guard_it_goes_on_to_the_next_death(image: Path) -> None:
    path = obd.attach.attach(image, via="fuse").path
    pid = server(image)
    end(parent(pid), signal.SIGKILL)
    assert Path(path).read_bytes() == DATA
    assert server(image) == pid
    with open(path, "rb"):
        end(pid, signal.SIGKILL)
        known = obd.attach.find(image)
        assert known is not None and known.dead
        assert obd.attach.attach(image, via="fuse").path == path
    kill(image)
    assert Path(path).read_bytes() == DATA, "the next one has a guard again"
    kill_with_guard(server(image))
