"""The existing Go snapshotter on our backend: its files, tools and configfs, for all that it stores."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import tcmu.configfs
from tests.e2e.disks import tool
from tests.e2e.oci_images import Layer
from tests.e2e.upstream import HOME, Convertor, Tree, is_local_block
from tests.vm.guest.go_devices import AttachError, Devices
from tests.vm.guest.slow_registry import slow_registry
from tests.vm.guest.tcmu_disk import Daemon, running

END_S = 120.0
FILES = {"name": "two\n", "more": "more\n"}


@pytest.fixture(scope="module", autouse=True)
def home() -> None:
    """The tools are where the snapshotter has them."""
    HOME.parent.mkdir(parents=True, exist_ok=True)
    if not HOME.exists():
        HOME.symlink_to(Path(shutil.which("overlaybd-create") or "").parent)


@pytest.fixture(scope="module")
def blobs(home: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two layers as the convertor makes them, in tars."""
    directory = tmp_path_factory.mktemp("blobs")
    convertor = Convertor(directory / "work")
    return [convertor.add(tar) for tar in tars(directory)]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        yield daemon
    assert not list((tcmu.configfs.TARGET / "core").glob("user_*/dev_*"))


@pytest.fixture
def devices(daemon: Daemon, tmp_path: Path) -> Iterator[Devices]:
    yield Devices(Tree(tmp_path))
    # The snapshotter leaves these for its next device; other tests want none.
    for directory in (tcmu.configfs.TARGET / "core").glob("user_*"):
        directory.rmdir()


def tars(home: Path) -> list[Path]:
    """Two layers, of which the second replaces a file of the first, takes one away and adds one."""
    base = Layer("").add("name", data=b"one\n").add("gone", data=b"gone\n").add("big", data=b"big\n" * 9999)
    top = Layer("").add("name", data=b"two\n").add(".wh.gone").add("more", data=b"more\n")
    paths = []
    for number, layer in enumerate((base, top)):
        paths.append(home / f"{number}.tar")
        paths[-1].write_bytes(layer.raw())
    return paths


def shown(root: Path) -> dict[str, str]:
    """The files that matter."""
    assert not (root / "gone").exists() and (root / "big").read_text() == "big\n" * 9999
    return {name: (root / name).read_text() for name in FILES}


def unpack(blob: Path, fs: Path) -> None:
    """What containerd does with a blob that it has fetched: it is a tar with one file."""
    tool("tar", "-xf", blob, "-C", fs)
    assert os.listdir(fs) == ["overlaybd.commit"] and is_local_block(fs)


@contextmanager
def overlaid(devices: Devices, number: int, parent: int) -> Iterator[Path]:
    """A container's root: an overlay on the device of its image."""
    point = devices.tree.at(number, "rootfs")
    point.mkdir()
    layers = {
        "workdir": devices.tree.at(number, "work"),
        "upperdir": devices.tree.at(number, "fs"),
        "lowerdir": devices.tree.at(parent, "block/mountpoint"),
    }
    options = ",".join(["index=off", *(f"{key}={path}" for key, path in layers.items())])
    tool("mount", "-t", "overlay", "overlay", "-o", options, point)
    yield point
    tool("umount", point)
    shutil.rmtree(devices.tree.at(number))


def local_image(devices: Devices, blobs: list[Path]) -> int:
    """An image of two layers that have been fetched; the number of its topmost snapshot."""
    for number, blob in enumerate(blobs, 1):
        unpack(blob, devices.tree.new(number) / "fs")
        devices.tree.configure(number, number - 1 or None, {"dir": str(devices.tree.at(number, "fs"))})
    return 2


def test_containers_on_layers_that_were_fetched(devices: Devices, blobs: list[Path]) -> None:
    image = local_image(devices, blobs)
    assert shown(devices.provide(image)) == FILES
    assert devices.tree.result(image) == "success"
    for number in (3, 4):
        devices.tree.new(number)
        with overlaid(devices, number, image) as root:
            (root / "name").write_text(str(number))
            assert shown(root) == {**FILES, "name": str(number)}
    devices.release(image)
    # As after a reboot: the tree is there, and nothing else.
    assert shown(devices.provide(image)) == FILES
    devices.release(image)


def test_layers_that_stay_in_their_registry(devices: Devices, blobs: list[Path], tmp_path: Path) -> None:
    blob = blobs[0]
    fs = devices.tree.new(1) / "fs"
    with slow_registry(blob) as registry:
        lower = {"digest": registry.digest, "size": blob.stat().st_size, "dir": str(fs)}
        devices.tree.configure(1, None, lower, url=registry.url)
        root = devices.provide(1)
        assert (root / "name").read_text() == "one\n"
        # Rewritten while the device is there, to record a trace: that counts when it is opened anew.
        trace = tmp_path / "trace"
        trace.touch()
        devices.tree.configure(1, None, lower, url=registry.url, recordTracePath=str(trace))
        assert (root / "big").read_text() == "big\n" * 9999
        devices.release(1)
        assert trace.stat().st_size == 0
        assert (devices.provide(1) / "big").exists()
        devices.release(1)
        assert trace.stat().st_size > 0
        # A layer above says what to fetch first.
        fs = devices.tree.new(2) / "fs"
        shutil.copy(trace, fs / "trace")
        devices.tree.configure(2, 1, {"dir": str(fs)}, accelerationLayer=True)
        assert (devices.provide(2) / "name").read_text() == "one\n"
        devices.release(2)


@pytest.mark.parametrize("kind", ["append", "sparse"])
def test_writable_devices_are_committed_one_upon_another(devices: Devices, tmp_path: Path, kind: str) -> None:
    """`rwMode` dir: mounted by the snapshotter; dev: by containerd, by what the mark says."""
    tree = devices.tree
    tree.new(1)
    tree.make_writable(1, None, size_gib=1, kind=kind)
    root = devices.provide(1, writable=True, mkfs=True)
    (root / "name").write_text("one\n")
    devices.release(1)
    sealed = tree.seal(1, None)
    assert not tree.at(1, "block/writable_data").exists() and Path(sealed).exists()
    tree.new(2)
    tree.make_writable(2, 1, kind=kind)
    device = devices.attach(2)
    assert tree.at(2, "block/backstore_mark").read_text() == device
    (point := tmp_path / "root").mkdir()
    tool("mount", "-t", "ext4", "-o", "rw,discard", device, point)
    (point / "more").write_text("more\n")
    tool("umount", point)
    devices.detach(2)
    tree.seal(2, 1)
    root = devices.provide(2)
    assert (root / "name").read_text() + (root / "more").read_text() == "one\nmore\n"
    devices.release(2)


def test_original_layers_with_metadata(devices: Devices, tmp_path: Path) -> None:
    """TurboOCI of a `layer.tar` that is here, made on the node."""
    for number, tar in enumerate(tars(tmp_path), 1):
        devices.tree.new(number)
        tar.rename(devices.tree.at(number, "layer.tar"))
        devices.tree.convert_layer_tar(number, number - 1 or None)
    assert shown(devices.provide(2)) == FILES
    devices.release(2)


def test_metadata_of_a_layer_in_a_registry(devices: Devices, tmp_path: Path) -> None:
    """TurboOCI as it is pulled: metadata and index unpacked, the original fetched as it is read."""
    original = tmp_path / "layer.tar.gz"
    tool("sh", "-c", f"gzip -c {tars(tmp_path)[0]} > {original}")
    home = Convertor(tmp_path / "work").add_turbo(original)
    fs = devices.tree.new(1) / "fs"
    for name in ("ext4.fs.meta", "gzip.meta", ".turbo.ociv1"):
        shutil.copy(home / name, fs)
    with slow_registry(original) as registry:
        lower = {"dir": str(fs), "file": str(fs / "ext4.fs.meta"), "targetDigest": registry.digest}
        devices.tree.configure(1, None, lower | {"gzipIndex": str(fs / "gzip.meta")}, url=registry.url)
        root = devices.provide(1)
        assert (root / "name").read_text() == "one\n" and (root / "big").read_text() == "big\n" * 9999
        devices.release(1)


def test_a_device_that_cannot_be(devices: Devices, blobs: list[Path], tmp_path: Path) -> None:
    """It is told at once, the cause is in the result file, and another attempt is as good as the first."""
    image = local_image(devices, blobs)
    commit = devices.tree.at(1, "fs/overlaybd.commit")
    away = commit.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(AttachError, match=f"failed to write enable for .*/dev_{image}: no such file"):
            devices.attach(image)
        assert devices.tree.result(image).startswith("failed:")
        assert not devices.target(image).exists() and not devices.loopback(image).exists()
    away.rename(commit)
    assert shown(devices.provide(image)) == FILES
    assert devices.tree.result(image) == "success"
    devices.release(image)
    devices.detach(image)  # there is nothing: no error


def test_names_of_devices_are_each_ones_own(devices: Devices, blobs: list[Path]) -> None:
    image = local_image(devices, blobs)
    other = Devices(devices.tree, tenant=7)
    first = devices.attach(image, with_id=True)
    with pytest.raises(AttachError):
        other.attach(image, with_id=True)
    assert devices.tree.result(image) == f"failed:duplicated dev id: {image}"
    second = other.attach(image)
    assert first != second
    for each in (other, devices):
        each.detach(image)


def test_who_waits_for_a_device_has_it_when_the_daemon_is_back(
    devices: Devices, blobs: list[Path], daemon: Daemon
) -> None:
    """The daemon dies between two steps: the next one waits for another daemon."""
    image = local_image(devices, blobs)
    link = devices._link

    def link_without_daemon(number: int) -> str:
        daemon.end(signal.SIGKILL)
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(link, number)
            daemon.start()
            return waits.result(END_S)

    devices._link = link_without_daemon  # type: ignore[method-assign]
    assert shown(devices.provide(image)) == FILES
    devices.release(image)


def test_who_asks_before_the_daemon_is_there_has_the_device_once_it_is(
    devices: Devices, blobs: list[Path], daemon: Daemon
) -> None:
    """The kernel ends the wait with EINTR, at which Go writes again, as Python does."""
    image = local_image(devices, blobs)
    daemon.end(signal.SIGKILL)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(devices.provide, image)
        target = tcmu.Backstore(999999999, f"dev_{image}")
        while not target.directory.exists() or target.enabled():
            assert not waits.done()
            time.sleep(0.01)
        daemon.start()
        assert shown(waits.result(END_S)) == FILES
    devices.release(image)
