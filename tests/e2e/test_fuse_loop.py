"""FUSE files under real loop devices with real file systems, and as plain files."""

import errno
import hashlib
import json
import mmap
import os
import random
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from obdcore import Error, FuseMount, Image
from tests.e2e.disks import MIB, commit, content, fails, read_only, tool, writable
from tests.rigs.attached import PATIENCE_S, until

SIZE = 320 * MIB  # the least that mkfs.xfs takes is 300

needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse here")
needs_loop = pytest.mark.skipif(
    not (os.access("/dev/loop-control", os.R_OK | os.W_OK) and os.geteuid() == 0),
    reason="no loop devices here",
)
pytestmark = needs_fuse


@contextmanager
def mounted(directory: Path, **images: Image) -> Iterator[tuple[Path, FuseMount]]:
    """A FUSE mount of images beneath `directory`; at the end it must not be in use."""
    point = directory / "fuse"
    point.mkdir()
    mount = FuseMount(images, str(point))
    try:
        yield point, mount
    except BaseException:
        mount.stop(force=True)
        raise
    stop(mount)


def stop(mount: FuseMount) -> None:
    """Unmounts. The kernel lets go of a loop device's file a moment after it has detached it."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return mount.stop()
        except Error as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


@contextmanager
def loop(path: Path, *options: str) -> Iterator[str]:
    """A loop device on a file."""
    device = tool("losetup", "--find", "--show", *options, path).strip()
    try:
        yield device
    finally:
        tool("losetup", "--detach", device)
        # Detaching happens when the last user has gone, which may be udev for a moment.
        until(lambda: not tool("losetup", "--associated", path).strip(), f"{device} is not detached")


@contextmanager
def mounted_on(directory: Path, device: str, *options: str) -> Iterator[Path]:
    """The file system of a device."""
    directory.mkdir()
    tool("mount", *options, device, directory)
    try:
        yield directory
    finally:
        tool("umount", directory)


def fsck(kind: str, device: str) -> None:
    """Holds that a file system is clean."""
    tool(*(["e2fsck", "-f", "-n", device] if kind == "ext4" else ["xfs_repair", "-n", device]))


def mkfs(kind: str, device: str) -> None:
    tool(*(["mkfs.ext4", "-q", device] if kind == "ext4" else ["mkfs.xfs", "-q", device]))


def digests(directory: Path) -> dict[str, str]:
    """The SHA-256 of every file of a tree."""
    files = (p for p in sorted(directory.rglob("*")) if p.is_file())
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@needs_loop
@pytest.mark.parametrize("how", ["buffered", "direct"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_file_system_lives_on_it(tmp_path: Path, kind: str, how: str) -> None:
    image = writable(tmp_path, size=SIZE)
    options = ["--direct-io=on"] if how == "direct" else []
    with mounted(tmp_path, disk=image) as (files, _), loop(files / "disk", *options) as device:
        mkfs(kind, device)
        with mounted_on(tmp_path / "fs", device, "-o", "discard") as root:
            (root / "tree").mkdir()
            for i in range(50):
                (root / "tree" / str(i)).write_bytes(content(random.Random(i).randrange(300_000), i))
            for i in range(0, 50, 3):
                (root / "tree" / str(i)).unlink()
            tool(
                "fio",
                "--name=verify",
                f"--directory={root}",
                "--rw=randrw",
                "--bsrange=4k-64k",
                "--size=48m",
                "--ioengine=libaio",
                "--iodepth=8",
                "--direct=1",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
                "--fsync=200",
            )
            before = digests(root)
            tool("fstrim", root)
        fsck(kind, device)
    image.close()

    # The same as a committed layer, read-only.
    sealed = commit(tmp_path, "layer")
    again = tmp_path / "again"
    again.mkdir()
    with mounted(again, disk=sealed) as (files, _), loop(files / "disk", "--read-only", *options) as device:
        fsck(kind, device)
        with mounted_on(again / "fs", device, "-o", "ro") as root:
            assert digests(root) == before
            assert len(before) == 34


@needs_loop
def test_many_images_at_once(tmp_path: Path) -> None:
    images = {}
    for i in range(4):
        (tmp_path / str(i)).mkdir()
        images[f"disk{i}"] = writable(tmp_path / str(i), size=64 * MIB, sparse=i % 2 == 1)
    failed: list[BaseException] = []

    def use(files: Path, i: int) -> None:
        try:
            with loop(files / f"disk{i}") as device:
                mkfs("ext4", device)
                with mounted_on(tmp_path / f"fs{i}", device) as root:
                    for n in range(20):
                        (root / str(n)).write_bytes(content(200_000, 100 * i + n))
                fsck("ext4", device)
                with mounted_on(tmp_path / f"fs{i}b", device) as root:
                    for n in range(20):
                        assert (root / str(n)).read_bytes() == content(200_000, 100 * i + n)
        except BaseException as error:
            failed.append(error)

    with mounted(tmp_path, **images) as (files, _):
        assert sorted(p.name for p in files.iterdir()) == sorted(images)
        threads = [threading.Thread(target=use, args=(files, i)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []


@needs_loop
def test_unmounting_while_in_use(tmp_path: Path) -> None:
    image = writable(tmp_path, size=64 * MIB)
    point = tmp_path / "fuse"
    point.mkdir()
    mount = FuseMount({"disk": image}, str(point))
    with loop(point / "disk") as device:
        mkfs("ext4", device)
        with mounted_on(tmp_path / "fs", device) as root:
            (root / "a").write_bytes(b"a" * 100_000)
            with pytest.raises(Error) as raised:
                mount.stop()
            assert raised.value.errno == errno.EBUSY
            (root / "b").write_bytes(b"b" * 100_000)
            os.sync()
            # From outside it can go lazily: what is in use goes on.
            tool("umount", "--lazy", point)
            assert list(point.iterdir()) == []
            tool("mount", "-o", "remount", device, root)
            (root / "c").write_bytes(b"c" * 100_000)
        fsck("ext4", device)
    mount.wait()
    image.close()


def test_random_operations_match_a_model(tmp_path: Path) -> None:
    numbers = random.Random(7)
    size = 8 * MIB + 512
    model = bytearray(content(size))
    image = writable(tmp_path, data=bytes(model))
    with mounted(tmp_path, disk=image) as (files, _):
        direct = os.open(files / "disk", os.O_RDWR | os.O_DIRECT)
        plain = os.open(files / "disk", os.O_RDWR)
        with mmap.mmap(plain, size) as mapped:
            for _ in range(400):
                offset = numbers.randrange(size)
                length = min(numbers.choice((1, 511, 4096, 70_000, 1_500_000)), size - offset)
                match numbers.randrange(6):
                    case 0 | 1:
                        data = numbers.randbytes(length)
                        assert os.pwrite(plain, data, offset) == length
                        model[offset : offset + length] = data
                    case 2:
                        assert os.pread(plain, length, offset) == model[offset : offset + length]
                    case 3:
                        offset, buffer = offset & ~4095, mmap.mmap(-1, 65536)
                        buffer[:] = numbers.randbytes(65536)
                        done = os.pwritev(direct, [buffer], offset)
                        assert done == min(65536, size - offset)
                        model[offset : offset + done] = buffer[:done]
                    case 4:
                        command = numbers.choice(("--punch-hole", "--zero-range"))
                        tool(
                            "fallocate",
                            command,
                            "--keep-size",
                            "-o",
                            str(offset),
                            "-l",
                            str(length),
                            files / "disk",
                        )
                        model[offset : offset + length] = bytes(length)
                    case _:
                        os.fsync(plain)
                        mapped.flush()
        os.close(direct)
        os.close(plain)
        assert (files / "disk").read_bytes() == model
        assert image.read_at(0, size) == model


def test_holes_can_be_seen(tmp_path: Path) -> None:
    data = content(16 * MIB)
    with mounted(tmp_path, disk=read_only(tmp_path, data)) as (files, _):
        runs = json.loads(tool("qemu-img", "map", "--output=json", "-f", "raw", files / "disk"))
        assert sum(run["length"] for run in runs) == len(data)
        for run in runs:
            part = data[run["start"] : run["start"] + run["length"]]
            assert run["zero"] == (part.count(0) == len(part))
        tool("cp", "--sparse=always", files / "disk", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data


def test_a_read_only_file_refuses_to_be_written(tmp_path: Path) -> None:
    with mounted(tmp_path, disk=read_only(tmp_path, content(MIB))) as (files, _):
        with pytest.raises(OSError) as raised:
            os.open(files / "disk", os.O_RDWR)
        assert raised.value.errno == errno.EROFS
        assert (files / "disk").stat().st_mode & 0o777 == 0o400
        assert "Read-only" in fails("mkfs.ext4", "-q", files / "disk")
        with pytest.raises(OSError):
            (files / "disk").unlink()


def test_a_broken_layer_is_an_error_where_it_is_broken(tmp_path: Path) -> None:
    read_only(tmp_path, data := content(8 * MIB)).close()
    stored = bytearray((tmp_path / "layer").read_bytes())
    stored[len(stored) // 2] ^= 0xFF
    (tmp_path / "layer").write_bytes(stored)
    point, errors, bad = tmp_path / "fuse", [], []
    point.mkdir()
    image = Image([str(tmp_path / "layer")])
    mount = FuseMount({"disk": image}, str(point), on_error=lambda name, e: errors.append((name, e.kind)))
    with (point / "disk").open("rb", buffering=0) as file:
        for offset in range(0, len(data), 4096):
            try:
                assert os.pread(file.fileno(), 4096, offset) == data[offset : offset + 4096]
            except OSError as error:
                assert error.errno == errno.EIO
                bad.append(offset)
    mount.stop()
    assert len(bad) in (1, 2)
    assert set(errors) == {("disk", "corrupt")}


def test_a_process_that_ends_takes_its_mount_along(tmp_path: Path) -> None:
    read_only(tmp_path, content(MIB)).close()
    point = tmp_path / "fuse"
    point.mkdir()
    program = f"""
        import os
        from obdcore import FuseMount, Image
        mount = FuseMount({{"disk": Image([{str(tmp_path / "layer")!r}])}}, {str(point)!r})
        assert os.listdir({str(point)!r}) == ["disk"]
        assert len(open({str(point / "disk")!r}, "rb").read()) == {MIB}
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)
    assert list(point.iterdir()) == []


def test_interrupting_a_wait(tmp_path: Path) -> None:
    read_only(tmp_path, content(MIB)).close()
    point = tmp_path / "fuse"
    point.mkdir()
    program = f"""
        from obdcore import FuseMount, Image
        mount = FuseMount({{"disk": Image([{str(tmp_path / "layer")!r}])}}, {str(point)!r})
        try:
            print("ready", flush=True)
            mount.wait()
        except KeyboardInterrupt:
            mount.stop()
            print("stopped")
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(2)
    assert child.communicate(timeout=PATIENCE_S)[0] == "stopped\n"
    assert list(point.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_without_root_by_fusermount(tmp_path: Path) -> None:
    read_only(tmp_path, data := content(MIB)).close()
    layer = (tmp_path / "layer").read_bytes()
    # As usual systems have it; some machines keep the device to root.
    os.mknod(node := tmp_path / "node", 0o666 | stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
    node.chmod(0o666)
    program = """
        import errno, os, sys, tempfile
        from obdcore import Error, FuseMount, Image
        os.setgid(65534)
        os.setuid(65534)
        with tempfile.TemporaryDirectory() as directory:
            os.mkdir(point := directory + "/fuse")
            with open(directory + "/layer", "wb") as file:
                file.write(sys.stdin.buffer.read())
            mount = FuseMount({"disk": Image([directory + "/layer"])}, point)
            sys.stdout.buffer.write(open(point + "/disk", "rb").read())
            with open(point + "/disk", "rb"):
                try:
                    mount.stop()
                    sys.exit("not busy")
                except Error as error:
                    assert error.errno == errno.EBUSY, error
            mount.stop()
            assert os.listdir(point) == []
            mount = FuseMount({"disk": Image([directory + "/layer"])}, point)
            del mount
            assert os.listdir(point) == []
    """
    inside = 'mount --bind "$0" /dev/fuse && exec "$@"'
    python = [sys.executable, "-c", textwrap.dedent(program)]
    command = ["unshare", "--mount", "sh", "-c", inside, str(node), *python]
    done = subprocess.run(command, input=layer, capture_output=True, check=False, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == data
