"""`obd attach`, `obd detach`, `obd list` where there are only FUSE and loop devices, and nothing left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import obd.attach
import obd.attach.control
from obd.attach.users import claim
from obd.attach.ways import way
from obd.errors import ObdError
from obd.sockets import processes, statistics
from tests.e2e.commands import BIN, end, kill_with_guard, ok, run
from tests.e2e.disks import MIB, content, layer, tool
from tests.rigs.attached import PATIENCE_S, until

pytestmark = pytest.mark.skipif(bool(missing := way("fuse").missing()), reason=f"no device here: {missing}")

SIZE = 8 * MIB
DATA = content(SIZE)


@pytest.fixture(autouse=True)
def nothing_left(run_directory: Path) -> Iterator[None]:
    """After each test all is detached; then nothing is there any more: no device, no mount, no file."""
    yield
    for one in obd.attach.attachments():
        obd.attach.detach(one.name)
    assert obd.attach.attachments() == []
    run_path = os.path.realpath(run_directory)
    end_s = time.monotonic() + PATIENCE_S
    while os.path.isdir(f"{run_path}/attach") and (left := os.listdir(f"{run_path}/attach")):
        # The last step of a keeper, which nobody waits for.
        assert all(name.endswith(".gone") for name in left) and time.monotonic() < end_s, left
    assert run_path not in Path("/proc/self/mountinfo").read_text()
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # others' loop devices go away meanwhile
            assert run_path not in file.read_text()


def image(directory: Path, name: str = "image.json", *, writable: bool = False) -> Path:
    """The configuration of an image that holds `DATA`."""
    if not (directory / "layer").exists():
        layer(directory / "layer", DATA)
    document: dict[str, Any] = {"lowers": [{"file": str(directory / "layer")}]}
    if writable:
        upper = {"data": f"{directory}/{name}.data", "index": f"{directory}/{name}.index"}
        ok("overlaybd-create", upper["data"], upper["index"], "0")
        document["upper"] = upper
    (directory / name).write_text(json.dumps(document))
    return directory / name


def listed() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ok("obd", "list", "--json").out)
    return found


def kill(pid: int) -> None:
    """Kills a keeper, so that none takes its place."""
    kill_with_guard(pid)


def forget(device: str) -> None:
    """Has the kernel read a device anew."""
    subprocess.run(["blockdev", "--flushbufs", device], check=True)


def test_only_the_device_is_on_stdout_and_why_it_is_that_on_stderr(tmp_path: Path) -> None:
    config = image(tmp_path)
    done = ok("obd", "attach", config)
    device = done.out.removesuffix("\n")
    assert Path(device).read_bytes() == DATA
    (why,) = done.lines
    assert why.startswith(f"obd: {device} by fuse: ")
    assert "no nbd: " in why and "modprobe nbd" in why, "why the better ways were not taken"
    (one,) = listed()
    assert (one["path"], one["config"], one["via"]) == (device, str(config), "fuse")
    assert one["read_only"] is True and one["dead"] is False and one["why"] in why
    assert f"{device}: {config} by fuse, read-only" in ok("obd", "list").out
    assert Path("/sys/block", Path(device).name, "ro").read_text() == "1\n"
    assert ok("obd", "detach", device).out == ""
    assert listed() == [] and ok("obd", "list").out == ""
    assert ok("obd", "detach", config).out == f"{config}: not attached\n", "a second time is fine"


def test_what_is_written_and_discarded_is_there_again(tmp_path: Path) -> None:
    config = image(tmp_path, writable=True)
    with open(ok("obd", "attach", "--rw", config).out.strip(), "r+b", buffering=0) as device:
        device.write(new := os.urandom(MIB))
        subprocess.run(["blkdiscard", "-o", str(MIB), "-l", str(MIB), device.name], check=True)
    # As soon as the command returns, what was written is in the files and they are free.
    ok("obd", "detach", config)
    ok("obd", "export", config, tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == new + bytes(MIB) + DATA[2 * MIB :]


def test_a_keeper_that_writes_back_for_long_is_no_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = (str(tmp_path / "data"), str(tmp_path / "index"))
    ok("overlaybd-create", *pair, str(64))
    (config := tmp_path / "image.json").write_text(
        json.dumps({"lowers": [], "upper": {"data": pair[0], "index": pair[1]}})
    )
    # It is asked again at once, and sees that the device cannot be claimed while the keeper has it.
    monkeypatch.setattr(obd.attach.control, "LET_GO_S", 0.0)
    monkeypatch.setattr(obd.attach.control, "claim", partial(claim, patience_s=0))
    device = obd.attach.attach(config, via="fuse", rw=True).path
    with open(device, "r+b", buffering=0) as file:
        for _ in range(64):
            file.write(os.urandom(MIB))  # stays in memory
    assert obd.attach.detach(config)


def test_detaching_tells_of_what_could_not_be_written_back(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    tool("mount", "-t", "tmpfs", "-o", "size=1m", "small", small)
    try:
        pair = (str(small / "data"), str(small / "index"))
        ok("overlaybd-create", *pair, str(64))
        config = tmp_path / "image.json"
        config.write_text(json.dumps({"lowers": [], "upper": {"data": pair[0], "index": pair[1]}}))
        device = obd.attach.attach(config, via="fuse", rw=True).path
        Path(device).write_bytes(os.urandom(8 * MIB))  # all is well so far: it stays in memory
        with pytest.raises(ObdError, match=r"the last writes may be lost: .* not be made durable") as caught:
            obd.attach.detach(config)
        assert caught.value.kind == "io"
        assert listed() == [], "it is gone nevertheless"
    finally:
        tool("umount", small)


def test_what_is_in_use_stays_and_its_user_is_named(tmp_path: Path) -> None:
    with (tmp_path / "raw").open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", tmp_path / "raw"], check=True)
    config = tmp_path / "image.json"
    ok("obd", "import", tmp_path / "raw", tmp_path / "layer")
    image(tmp_path)
    device = ok("obd", "attach", config).out.strip()
    point = tmp_path / "mount point"
    point.mkdir()
    subprocess.run(["mount", "-o", "ro", device, point], check=True)
    done = run("obd", "detach", device)
    assert done.status == 255
    assert done.lines == [f"obd: busy: {device}: in use: mounted at {point}"]
    assert "lost+found" in os.listdir(point)
    subprocess.run(["umount", point], check=True)
    with open(device, "rb") as opened, subprocess.Popen(["sleep", "60"], stdin=opened) as user:
        opened.close()
        assert f"open in sleep ({user.pid})" in run("obd", "detach", config).err
        user.kill()
    other = subprocess.run(["losetup", "-f", "--show", device], capture_output=True, text=True, check=True)
    assert f"{other.stdout.strip()} has {device} behind it" in run("obd", "detach", config).err
    subprocess.run(["losetup", "-d", other.stdout.strip()], check=True)
    # In a mount namespace that we do not see.
    script = f"mount -o ro {device} {tmp_path}/run && echo && read word"
    there = ["unshare", "-m", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(there, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"\n"
        assert f"mounted at {tmp_path}/run (for process " in run("obd", "detach", config).err
        process.communicate(b"\n")
    assert listed()[0]["path"] == device
    ok("obd", "detach", device)


def test_an_image_is_attached_once(tmp_path: Path) -> None:
    config = image(tmp_path)
    device = ok("obd", "attach", config).out.strip()
    (tmp_path / "link.json").symlink_to(config)
    for same in (config, tmp_path / "link.json"):
        done = run("obd", "attach", same)
        assert done.status == 255 and f"exists: {same}: attached already as {device}" in done.err
    other = ok("obd", "attach", image(tmp_path, "other.json")).out.strip()
    assert other != device and len(listed()) == 2
    ok("obd", "detach", config)
    assert Path(other).read_bytes() == DATA
    assert [one["path"] for one in listed()] == [other]


def test_a_device_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(MIB))
    done = subprocess.run(
        ["losetup", "-f", "--show", tmp_path / "raw"], capture_output=True, text=True, check=True
    )
    device = done.stdout.strip()
    try:
        refused = run("obd", "detach", device)
        assert refused.status == 255 and "denied" in refused.err
        assert Path(device).read_bytes() == bytes(MIB)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_the_device_of_a_dead_keeper_may_be_another_images_by_now(tmp_path: Path) -> None:
    first, second = image(tmp_path, "first.json"), image(tmp_path, "second.json")
    device = ok("obd", "attach", first).out.strip()
    kill(listed()[0]["pid"])
    subprocess.run(["losetup", "-d", device], check=True)
    obd.attach.attach(second)
    (one,) = listed()
    assert one["config"] == str(second)
    kill(one["pid"])
    with open(one["path"], "rb") as user:
        assert obd.attach.attach(second).path == one["path"], "taken for the right one"
        forget(one["path"])
        assert user.read() == DATA
    ok("obd", "detach", one["path"])
    assert listed() == []


def test_after_a_killed_keeper_the_next_command_clears_up(tmp_path: Path) -> None:
    config = image(tmp_path, writable=True)
    for command in ("list", "attach", "detach"):
        first = ok("obd", "attach", "--rw", config).out.strip()
        kill(listed()[0]["pid"])
        if command == "attach":
            # The new device works, whatever its number.
            device = ok("obd", "attach", "--rw", config).out.strip()
            assert Path(device).read_bytes() == DATA
        elif command == "detach":
            ok("obd", "detach", first)
        assert len(listed()) == (command == "attach")
        ok("obd", "detach", config)


def test_a_read_only_device_is_served_again_under_its_users(tmp_path: Path) -> None:
    config = image(tmp_path)
    device = ok("obd", "attach", config).out.strip()
    with open(device, "rb") as user:
        for _ in range(3):
            kill(listed()[0]["pid"])
            forget(device)
            with pytest.raises(OSError):
                user.read(4096)
            (dead,) = listed()
            assert dead["dead"] is True and dead["path"] == device
            assert "its server died" in ok("obd", "list").out
            assert "open in" in run("obd", "detach", device).err, "in use, so it stays"
            assert ok("obd", "attach", config).out.strip() == device
            forget(device)
            user.seek(0)
            assert user.read() == DATA
            user.seek(0)
        assert listed()[0]["dead"] is False
    ok("obd", "detach", device)


def test_a_writable_device_whose_keeper_died_stays_while_it_is_in_use(tmp_path: Path) -> None:
    config = image(tmp_path, writable=True)
    device = ok("obd", "attach", "--rw", config).out.strip()
    with open(device, "rb"):
        kill(listed()[0]["pid"])
        assert listed()[0]["dead"] is True
        done = run("obd", "attach", "--rw", config)
        assert done.status == 255 and "busy" in done.err and "open in" in done.err
    assert listed() == []


def test_sigterm_asks_a_keeper_to_detach(tmp_path: Path) -> None:
    config = image(tmp_path)
    device = ok("obd", "attach", config).out.strip()
    end(listed()[0]["pid"], signal.SIGTERM)
    assert listed() == []
    assert not Path("/sys/block", Path(device).name, "loop").exists()


def test_who_detaches_the_loop_device_by_other_means_is_noticed(tmp_path: Path) -> None:
    device = ok("obd", "attach", image(tmp_path)).out.strip()
    pid = listed()[0]["pid"]
    subprocess.run(["losetup", "-d", device], check=True)
    end(pid, 0)


def watched() -> int:
    """The keeper's number, once it can be asked: a moment after the device is there."""
    pid: int = listed()[0]["pid"]
    until(lambda: pid in processes(), "no control socket")
    return pid


def test_a_device_grows_while_it_is_in_use(tmp_path: Path) -> None:
    device = ok("obd", "attach", "--rw", "--via", "fuse", image(tmp_path, writable=True)).out.strip()
    watched()
    with Path(device).open("r+b", buffering=0) as disk:
        ok("obd", "grow", device, str(2 * SIZE))
        assert int(tool("blockdev", "--getsize64", device)) == 2 * SIZE
        disk.seek(2 * SIZE - 512)
        assert disk.write(b"x" * 512) == 512
        os.fsync(disk.fileno())
    ok("obd", "detach", device)
    device = ok("obd", "attach", tmp_path / "image.json", "--via", "fuse").out.strip()
    assert Path(device).read_bytes() == DATA + bytes(SIZE - 512) + b"x" * 512


def test_an_attached_device_can_be_watched(tmp_path: Path) -> None:
    config = image(tmp_path)
    device = ok("obd", "attach", config).out.strip()
    pid = watched()
    found = statistics(pid)
    assert found["command"] == "obd attach"
    assert (found["devices"][0]["address"], found["devices"][0]["image"]) == (device, str(config))


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("no upper", "read-only: "),
        ("bad layer", "failed to create overlaybd device"),
        ("bad configuration", "not JSON"),
        ("no way", "unsupported: no nbd: "),
    ],
)
def test_a_failure_is_one_line(tmp_path: Path, problem: str, message: str) -> None:
    config = image(tmp_path)
    words = {"no upper": ["--rw"], "no way": ["--via", "nbd"]}.get(problem, [])
    if problem == "bad layer":
        (tmp_path / "layer").write_bytes(b"x" * MIB)
    elif problem == "bad configuration":
        config.write_text("{")
    done = run("obd", "attach", *words, config)
    assert (done.status, done.out, len(done.lines)) == (255, "", 1), done
    assert message in done.err


def test_a_failure_is_of_its_kind(tmp_path: Path) -> None:
    config = image(tmp_path)
    for kind, rw in (("read-only", True), ("not-found", False)):
        with pytest.raises(ObdError) as caught:
            obd.attach.attach(config, rw=rw)
        assert caught.value.kind == kind
        (tmp_path / "layer").unlink(missing_ok=True)


# In a process of its own: others open and close descriptors in that of the tests meanwhile.
THIRTY_ROUNDS = """
import os, sys, obd.attach
before = os.listdir("/proc/self/fd")
for number in range(30):
    attached = obd.attach.attach(sys.argv[1], rw=number % 2 == 0)
    assert attached.read_only == (number % 2 == 1)
    assert obd.attach.attachments() == [attached]
    assert obd.attach.detach(attached.path if number % 3 else attached.name)
assert os.listdir("/proc/self/fd") == before
"""


def test_thirty_rounds_from_python_leave_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", THIRTY_ROUNDS, str(image(tmp_path, writable=True))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert obd.attach.attachments() == []
    with pytest.raises(ObdError, match="invalid"):
        obd.attach.attach(tmp_path / "image.json", via="pigeon")


def test_an_interrupted_attach_leaves_nothing(tmp_path: Path) -> None:
    """SIGINT while the image is opened: from a registry that accepts a connection and then says nothing."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        config, service = tmp_path / "image.json", tmp_path / "service.json"
        lower = {"digest": "sha256:" + "1" * 64, "size": MIB}
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v2/a/blobs"
        config.write_text(json.dumps({"repoBlobUrl": url, "lowers": [lower]}))
        cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache")}
        service.write_text(json.dumps({"cacheConfig": cache}))
        command = [str(word) for word in (BIN / "obd", "attach", "--service", service, config)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            connection, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            connection.close()
            silent.close()
        assert process.returncode == -signal.SIGINT
    assert listed() == []
