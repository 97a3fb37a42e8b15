"""`obd mount` and `obd umount`: FUSE, a loop device and a file system, and nothing left afterwards."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from obd.mount import filesystem
from obd.privileges import KEEPING
from obd.sockets import processes, statistics
from obd.state import StateDirectory, run_directory
from tests.e2e.commands import BIN, kill_with_guard, ok, run

needs_mount = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"),
    reason="mounting needs root, /dev/fuse and /dev/loop-control",
)
pytestmark = [needs_mount, pytest.mark.usefixtures("run_directory")]

# Events of the kernel and of other processes come within milliseconds; so long only if something is wrong.
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer with an ext4 file system that holds one file."""
    home = tmp_path_factory.mktemp("base")
    (home / "tree").mkdir()
    (home / "tree" / "hello").write_text("from the base\n")
    with (home / "raw").open("wb") as file:
        file.truncate(64 << 20)
    options = ["-q", "-t", "ext4", "-E", "lazy_itable_init=0", "-d", str(home / "tree")]
    subprocess.run(["mke2fs", *options, str(home / "raw")], check=True)
    ok("obd", "import", "-z", "-t", home / "raw", home / "layer")
    return home / "layer"


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    """A mount point that is free at the end, whatever happened."""
    directory = tmp_path / "mnt"
    directory.mkdir()
    yield directory
    run("obd", "umount", directory)
    assert not filesystem.is_mount_point(str(directory))
    assert not os.path.exists(StateDirectory("mounts", str(directory)).path), "state is left"


def config(directory: Path, base: Path, *, writable: bool = False) -> Path:
    document: dict[str, object] = {"lowers": [{"file": str(base)}]}
    if writable:
        data, index = directory / "data", directory / "index"
        if not data.exists():
            ok("overlaybd-create", data, index, "0")
        document["upper"] = {"data": str(data), "index": str(index)}
    path = directory / ("rw.json" if writable else "ro.json")
    path.write_text(json.dumps(document))
    return path


def fsck(directory: Path, image: Path) -> None:
    """The file system in the image is clean."""
    raw = directory / "fsck.raw"
    ok("obd", "export", "-f", image, raw)
    subprocess.run(["e2fsck", "-fn", raw], check=True, capture_output=True)


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_unmounting_tells_of_what_could_not_be_written_back(tmp_path: Path, base: Path, point: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", small], check=True)
    try:
        ok("obd", "mount", "--rw", config(small, base, writable=True), point)
        (point / "new").write_bytes(os.urandom(8 << 20))  # all is well so far: it stays in memory
        done = run("obd", "umount", point)
        assert (done.status, "the last writes may be lost" in done.err) == (255, True), done
        assert not filesystem.is_mount_point(str(point)), "what is lost does not come back if it stays"
    finally:
        subprocess.run(["umount", small], check=True)


def test_read_only(tmp_path: Path, base: Path, point: Path) -> None:
    done = ok("obd", "mount", config(tmp_path, base), point)
    assert (point / "hello").read_text() == "from the base\n"
    with pytest.raises(OSError, match="Read-only file system"):
        (point / "new").touch()
    loop = done.out.split()[-1]
    assert Path(f"/sys/block/{os.path.basename(loop)}/ro").read_text() == "1\n"
    ok("obd", "umount", point)
    assert os.listdir(point) == []
    assert not Path(f"/sys/block/{os.path.basename(loop)}/loop").exists(), "the loop device is detached"
    assert "no image is mounted here" in ok("obd", "umount", point).out, "a second time is fine"


def test_devices_and_set_user_id_count_for_nothing_unless_asked_for(
    tmp_path: Path, base: Path, point: Path
) -> None:
    def options() -> set[str]:
        command = ["findmnt", "--noheadings", "--output", "OPTIONS", str(point)]
        return set(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().split(",")
        )

    ok("obd", "mount", config(tmp_path, base), point)
    assert {"ro", "nodev", "nosuid"} <= options()
    ok("obd", "umount", point)
    ok("obd", "mount", "-o", "suid,dev,noexec", config(tmp_path, base), point)
    assert "noexec" in options() and not {"nodev", "nosuid"} & options()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to give up")
def test_the_keeper_gives_up_privileges(tmp_path: Path, base: Path, point: Path) -> None:
    ok("obd", "mount", config(tmp_path, base), point)
    state = StateDirectory("mounts", str(point)).read()
    assert state is not None
    status = Path(f"/proc/{state.pid}/status").read_text()
    kept = sum(1 << number for number in KEEPING)
    for each in ("Prm", "Eff"):
        assert int(re.findall(rf"Cap{each}:\s*(\w+)", status)[0], 16) & ~kept == 0
    assert re.findall(r"NoNewPrivs:\s*(\w+)", status) == ["1"]


def test_what_is_written_is_there_again(tmp_path: Path, base: Path, point: Path) -> None:
    image = config(tmp_path, base, writable=True)
    ok("obd", "mount", "--rw", image, point)
    content = os.urandom(3 << 20)
    (point / "new").write_bytes(content)
    (point / "hello").unlink()
    ok("obd", "umount", point)
    # As soon as the command returns, the layer's files are free and whole.
    ok("overlaybd-commit", "-z", "-t", tmp_path / "data", tmp_path / "index", tmp_path / "second")
    stack = tmp_path / "stack.json"
    stack.write_text(json.dumps({"lowers": [{"file": str(base)}, {"file": str(tmp_path / "second")}]}))
    ok("obd", "mount", stack, point)
    assert (point / "new").read_bytes() == content
    assert not (point / "hello").exists()
    ok("obd", "umount", point)
    fsck(tmp_path, stack)


@pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="xfsprogs is not installed")
def test_two_xfs_images_of_one_base_beside_each_other(tmp_path: Path, point: Path) -> None:
    with (tmp_path / "raw").open("wb") as file:
        file.truncate(512 << 20)
    subprocess.run(["mkfs.xfs", "-q", str(tmp_path / "raw")], check=True)
    ok("obd", "import", "-z", tmp_path / "raw", tmp_path / "layer")
    image = config(tmp_path, tmp_path / "layer", writable=True)
    other = tmp_path / "other"
    other.mkdir()
    ok("obd", "mount", "--rw", image, point)
    try:
        ok("obd", "mount", config(tmp_path, tmp_path / "layer"), other)
        (point / "new").write_text("written")
        assert os.listdir(other) == []
    finally:
        ok("obd", "umount", other)
    ok("obd", "umount", point)
    ok("obd", "mount", image, point)
    assert (point / "new").read_text() == "written"


def test_plain_umount_ends_everything(tmp_path: Path, base: Path, point: Path) -> None:
    image = config(tmp_path, base, writable=True)
    ok("obd", "mount", "--rw", image, point)
    (point / "new").write_text("kept")
    subprocess.run(["umount", str(point)], check=True)
    state = StateDirectory("mounts", str(point))
    wait_for("the keeper does not end", lambda: not os.path.exists(state.path))
    ok("obd", "mount", image, point)
    assert (point / "new").read_text() == "kept"


def test_busy_stays_mounted(tmp_path: Path, base: Path, point: Path) -> None:
    image = config(tmp_path, base)
    ok("obd", "mount", image, point)
    with (point / "hello").open() as file:
        done = run("obd", "umount", point)
        assert done.status == 255 and "busy" in done.err
        assert file.read() == "from the base\n"
    done = run("obd", "mount", image, point)
    assert done.status == 255 and "mounted here already" in done.err
    ok("obd", "umount", point)


def test_sigterm_asks_the_keeper_to_unmount(tmp_path: Path, base: Path, point: Path) -> None:
    ok("obd", "mount", config(tmp_path, base), point)
    state = StateDirectory("mounts", str(point))
    known = state.read()
    assert known is not None
    with (point / "hello").open() as file:
        os.kill(known.pid, signal.SIGTERM)
        wait_for("no word of it in the log", lambda: "asked to end, but" in Path(state.log).read_text())
        assert file.read() == "from the base\n", "in use: served on"
    os.kill(known.pid, signal.SIGTERM)
    wait_for("still mounted", lambda: not filesystem.is_mount_point(str(point)))
    wait_for("the keeper does not end", lambda: not os.path.exists(state.path))


def test_a_mount_can_be_watched(tmp_path: Path, base: Path, point: Path) -> None:
    image = config(tmp_path, base)
    ok("obd", "mount", image, point)
    known = StateDirectory("mounts", str(point)).read()
    assert known is not None
    # It listens when the mount is there, so that nobody waits for that.
    wait_for("no control socket", lambda: known.pid in processes())
    before = statistics(known.pid)
    (device,) = before["devices"]
    assert (before["command"], device["name"]) == ("obd mount", str(point))
    assert (device["address"], device["image"]) == (known.path, str(image))
    assert device["reads"] > 0 and device["errors"] == 0
    ok("obd", "umount", point)
    wait_for("the control socket stays", lambda: known.pid not in processes())


def test_after_a_killed_keeper_everything_can_be_cleared(tmp_path: Path, base: Path, point: Path) -> None:
    image = config(tmp_path, base)
    ok("obd", "mount", image, point)
    known = StateDirectory("mounts", str(point)).read()
    assert known is not None
    kill_with_guard(known.pid)
    with pytest.raises(OSError):
        (point / "hello").read_bytes()
    ok("obd", "umount", point)
    assert os.listdir(point) == []
    ok("obd", "mount", image, point)
    assert (point / "hello").read_text() == "from the base\n"


def test_a_journal_that_cannot_be_replayed_is_skipped_with_a_warning(
    tmp_path: Path, base: Path, point: Path
) -> None:
    image = config(tmp_path, base, writable=True)
    ok("obd", "mount", "--rw", image, point)
    (point / "new").write_text("in the journal only")
    subprocess.run(["sync", "-f", str(point)], check=True)
    # What is in the upper now is what a crash leaves: mounted, with a journal to replay.
    for name in ("data", "index"):
        (tmp_path / f"crashed.{name}").write_bytes((tmp_path / name).read_bytes())
    ok("obd", "umount", point)
    upper = {name: str(tmp_path / f"crashed.{name}") for name in ("data", "index")}
    crashed = tmp_path / "crashed.json"
    crashed.write_text(json.dumps({"lowers": [{"file": str(base)}], "upper": upper}))
    done = ok("obd", "mount", crashed, point)
    assert "the ext4 journal cannot be replayed read-only" in done.err
    assert (point / "hello").read_text() == "from the base\n"
    ok("obd", "umount", point)
    assert ok("obd", "mount", "--rw", crashed, point).err == ""
    assert (point / "new").read_text() == "in the journal only"


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("no upper", "read-only: "),
        ("no file system", "cannot mount /dev/loop"),
        ("bad option", "cannot mount /dev/loop"),
        ("bad layer", "failed to create overlaybd device"),
        ("bad configuration", "not JSON"),
        ("no directory", "not-found: "),
    ],
)
def test_a_failure_leaves_nothing(
    tmp_path: Path, base: Path, point: Path, problem: str, message: str
) -> None:
    image, where = config(tmp_path, base), point
    words: list[str] = []
    if problem == "no upper":
        words = ["--rw"]
    elif problem == "no file system":
        (tmp_path / "raw").write_bytes(b"x" * (1 << 20))
        ok("obd", "import", tmp_path / "raw", tmp_path / "layer")
        image = config(tmp_path, tmp_path / "layer")
    elif problem == "bad option":
        words = ["-o", "nonsense"]
    elif problem == "bad layer":
        (tmp_path / "layer").write_bytes(b"x" * (1 << 20))
        image = config(tmp_path, tmp_path / "layer")
    elif problem == "bad configuration":
        image.write_text("{")
    else:
        where = tmp_path / "absent"
    loops = attached()
    done = run("obd", "mount", *words, image, where)
    assert done.status == 255, done
    assert len(done.lines) == 1 and message in done.err, done.err
    assert attached() == loops
    assert not os.path.exists(StateDirectory("mounts", str(where)).path)
    assert not filesystem.is_mount_point(str(point))


def attached() -> set[str]:
    """The files of our own behind loop devices."""
    out = subprocess.run(["losetup", "-nO", "BACK-FILE"], capture_output=True, text=True, check=True).stdout
    return {line for line in out.splitlines() if line.startswith(run_directory())}


def test_an_interrupted_mount_leaves_nothing(tmp_path: Path, base: Path, point: Path) -> None:
    """SIGINT while the image is opened: from a registry that accepts a connection and then says nothing."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        document = {
            "repoBlobUrl": f"http://127.0.0.1:{silent.getsockname()[1]}/v2/a/blobs",
            "lowers": [{"digest": "sha256:" + "1" * 64, "size": 1 << 20}],
        }
        image, service = tmp_path / "c.json", tmp_path / "s.json"
        image.write_text(json.dumps(document))
        service.write_text(
            json.dumps({"cacheConfig": {"cacheType": "file", "cacheDir": str(tmp_path / "cache")}})
        )
        command = [str(word) for word in (BIN / "obd", "mount", "--service", service, image, point)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            connection, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            connection.close()
            silent.close()
        assert process.returncode == -signal.SIGINT
    assert not os.path.exists(StateDirectory("mounts", str(point)).path)
