"""`obd attach` where the kernel has NBD and TCMU: file systems on both, the best way, keepers that die."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from obd.attach import fuse, nbd, tcmu
from obd.attach.ways import Way
from obd.image import open_device
from obd.sockets import processes, statistics
from obd.state import StateDirectory
from tests.e2e.commands import end, ok, run
from tests.e2e.disks import MIB, content, layer, tool
from tests.vm.boot import PROJECT
from tests.vm.guest.tcmu_disk import running

TREE = PROJECT / "docs"  # some files
SIZE = 16 * MIB
END_S = 120.0


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After each test nothing of it is there any more."""
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(tmp_path / "run"))
    yield
    assert listed() == []
    left = os.listdir(tmp_path / "run" / "attach")
    assert all(name.endswith(".gone") for name in left), "but for what a keeper is just removing"
    assert not list(Path("/sys/block").glob("nbd*/backend"))


@contextmanager
def daemon(tmp_path: Path, via: str) -> Iterator[None]:
    """Whoever has to run for a way."""
    with running(tmp_path) if via == "tcmu" else nullcontext():
        yield


def image(directory: Path, data: bytes = b"", name: str = "image.json") -> Path:
    """A writable image of zeros, or one that holds `data`."""
    document: dict[str, Any] = {"lowers": []}
    if data:
        document["lowers"] = [{"file": str(layer(directory / "layer", data))}]
    else:
        pair = {"data": str(directory / f"{name}.data"), "index": str(directory / f"{name}.index")}
        document["upper"] = pair
        ok("overlaybd-create", pair["data"], pair["index"], "1")
    (directory / name).write_text(json.dumps(document))
    return directory / name


def listed() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ok("obd", "list", "--json").out)
    return found


def attach(config: Path, *words: str) -> str:
    return ok("obd", "attach", *words, config).out.strip()


@contextmanager
def mounted(device: str, directory: Path, *options: str) -> Iterator[Path]:
    directory.mkdir(exist_ok=True)
    tool("mount", *options, device, directory)
    yield directory
    tool("umount", directory)


def until_it_can_be_asked(device: str) -> None:
    """Waits for the control socket of whoever serves a device, which is there a moment after it."""
    deadline = time.monotonic() + END_S
    while device not in [one["address"] for pid in processes() for one in statistics(pid)["devices"]]:
        assert time.monotonic() < deadline, f"nobody knows {device}"
        time.sleep(0.01)


def ends_late(user: int, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    """As if a user ended between the opening of the device and the look at its users."""

    def claim(path: str, **_: object) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_EXCL)
        os.close(user)
        return fd

    monkeypatch.setattr(module, "claim", claim)


@pytest.mark.parametrize(("by", "module"), [(nbd.NbdWay(), nbd), (fuse.FuseWay(), fuse)])
def test_what_was_written_last_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: Way, module: ModuleType
) -> None:
    place, data = StateDirectory("attach", "image.json"), b"x" * MIB
    assert place.acquire() and not by.missing()
    with open_device(image(tmp_path)) as device:
        served = by.serve(device.native, place, read_only=False, on_error=lambda *_: None, again=False)
        served.let_go()
        user = os.open(served.path, os.O_RDWR)
        os.write(user, data)
        ends_late(user, monkeypatch, module)
        by.take_away(place, served.path)
        served.stop()
        assert device.read(0, MIB) == data
    place.remove()
    place.release()


def test_what_was_written_last_is_kept_by_tcmu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, by, data = image(tmp_path), tcmu.TcmuWay(), b"x" * MIB
    place = StateDirectory("attach", str(config))
    with running(tmp_path):
        assert place.acquire() and not by.missing()
        path = by.attach(place, read_only=False)
        user = os.open(path, os.O_RDWR)
        os.write(user, data)
        ends_late(user, monkeypatch, tcmu)
        by.take_away(place, path)
    with open_device(config) as device:
        assert device.read(0, MIB) == data
    place.remove()
    place.release()


@pytest.mark.parametrize("via", ["nbd", "tcmu"])
def test_a_file_system_lives_on_it(tmp_path: Path, via: str) -> None:
    config = image(tmp_path)
    with daemon(tmp_path, via):
        device = attach(config, "--rw", "--via", via)
        tool("mkfs.ext4", "-q", device)
        with mounted(device, tmp_path / "root") as root:
            tool("cp", "-a", TREE, root)
            tool("fstrim", root)
            until_it_can_be_asked(device)
            ok("obd", "grow", device, "2G")
            assert int(tool("blockdev", "--getsize64", device)) == 2 << 30
            tool("resize2fs", device)
            done = run("obd", "detach", device)
            assert done.lines == [f"obd: busy: {device}: in use: mounted at {root}"]
        ok("obd", "detach", device)
        device = attach(config, "--via", via)
        assert tool("blockdev", "--getro", device).strip() == "1"
        tool("e2fsck", "-fn", device)
        with mounted(device, tmp_path / "root", "-o", "ro") as root:
            tool("diff", "-r", TREE, root / TREE.name)
        ok("obd", "detach", config)


def test_the_best_way_is_taken_and_the_others_are_told_of(tmp_path: Path, guest: str) -> None:
    config = image(tmp_path, content(MIB))

    def best(path: str, via: str, *better: str) -> None:
        done = ok("obd", "attach", config)
        device = done.out.strip()
        assert device.startswith(path) and f"{device} by {via}: " in done.err
        assert all(f"no {name}: " in done.err for name in better)
        assert Path(device).read_bytes() == content(MIB)
        assert f"attached already as {device}" in run("obd", "attach", config).err
        ok("obd", "detach", device)

    ublk = guest == "qemu"  # the other kernel is too old
    with daemon(tmp_path, "tcmu"):
        best(*("/dev/ublkb", "ublk") if ublk else ("/dev/sd", "tcmu", "ublk"))
    best(*("/dev/ublkb", "ublk") if ublk else ("/dev/nbd", "nbd", "ublk", "tcmu"))
    refused = run("obd", "attach", "--via", "tcmu", config)
    assert refused.status == 255 and "unsupported: no tcmu: overlaybd-tcmu does not run" in refused.err
    assert "systemctl start overlaybd-tcmu" in refused.err


def test_a_path_that_the_kernel_would_misread_is_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path / "a, b; c" / ("d" * 200)
    deep.mkdir(parents=True)
    with daemon(tmp_path, "tcmu"):
        device = attach(image(deep, content(MIB)), "--via", "tcmu")
        assert Path(device).read_bytes() == content(MIB)
        ok("obd", "detach", device)


def test_without_its_daemon_a_disk_is_left_as_it_is(tmp_path: Path) -> None:
    """Whoever asks configfs would hang."""
    config = image(tmp_path, content(MIB))
    with running(tmp_path) as process:
        device = attach(config, "--via", "tcmu")
        process.end(signal.SIGKILL)
        assert [(one["path"], one["dead"]) for one in listed()] == [(device, True)]
        assert "overlaybd-tcmu has to let go of it and does not run" in run("obd", "detach", device).err
        process.start()
        assert [(one["path"], one["dead"]) for one in listed()] == [(device, False)]
        ok("obd", "detach", device)


def test_what_the_daemon_refuses_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    config, result = tmp_path / "image.json", tmp_path / "result"
    document = {"lowers": [{"file": str(tmp_path / "absent")}], "resultFile": str(result)}
    config.write_text(json.dumps(document))
    with daemon(tmp_path, "tcmu"):
        assert "layer 0 is in none of its places" in run("obd", "attach", "--via", "tcmu", config).err
        assert not list(Path("/sys/kernel/config/target/core").glob("user_*"))
        done = run("obd", "attach", "--via", "tcmu", "--rw", image(tmp_path, content(MIB)))
        assert "no upper to write to" in done.err


def test_users_of_nbd_see_no_error_when_its_keeper_dies(tmp_path: Path) -> None:
    """What was answered is there; what was not is sent again to the new keeper."""
    config = image(tmp_path)
    device = attach(config, "--rw", "--via", "nbd")
    words = f"""--name=verify --filename={device} --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite
        --size={SIZE} --bsrange=512-256k --blockalign=512 --verify=crc32c --verify_fatal=1
        --verify_state_save=0 --verify_backlog=64 --fsync=32"""
    before = sectors_written(device)
    with subprocess.Popen(["fio", *words.split()], stdout=subprocess.PIPE) as fio:
        try:
            for part in range(1, 3):
                while sectors_written(device) < before + part * SIZE // 4 // 512:
                    assert fio.poll() is None
                end(listed()[0]["pid"], signal.SIGKILL)
                assert attach(config, "--rw") == device
            assert fio.wait(END_S) == 0
        finally:
            fio.kill()
    assert run("obd", "detach", device).status == 0


def sectors_written(device: str) -> int:
    return int(Path("/sys/block", Path(device).name, "stat").read_text().split()[6])


def test_a_killed_keeper_of_nbd_leaves_nothing(tmp_path: Path) -> None:
    config = image(tmp_path, content(MIB))
    device = attach(config, "--via", "nbd")
    end(listed()[0]["pid"], signal.SIGKILL)
    assert listed() == []
    assert not Path("/sys/block", Path(device).name, "pid").exists()
