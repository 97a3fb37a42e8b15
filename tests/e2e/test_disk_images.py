"""Whole disks, raw and qcow2: imported, served, compared by QEMU's own programs; their root partitions."""

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import obdcore
from obd.convert.disk import disk_format, layer_of_disk
from obdcore import DiskImage, Image, NbdServer
from tests.e2e.commands import ok, run, serving
from tests.e2e.disks import MIB, content, fails, tool
from tests.e2e.servers import Registry

SIZE = 32 * MIB
# The root partition, and one before it that is none.
ROOT = (9 * MIB, 22 * MIB)
TABLE = """label: gpt
label-id: 0b7d4c38-0d0f-4b39-9d86-1b5d0a6d2f11
first-lba: 2048
start=2048, size=16384, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
start=18432, size=45056, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name="root"
"""
FORMATS = {
    "v2": ["-o", "compat=0.10"],
    "v3": ["-o", "cluster_size=4k"],
    "largest-clusters": ["-o", "cluster_size=2M"],
    "preallocated": ["-o", "preallocation=metadata"],
    "zlib": ["-c", "-o", "compat=0.10"],
    "zstd": ["-c", "-o", "compression_type=zstd,cluster_size=512"],
    "extended": ["-o", "extended_l2=on,cluster_size=64k"],
    "extended-zstd": ["-c", "-o", "extended_l2=on,compression_type=zstd,cluster_size=2M"],
}


def convert(source: Path, target: Path, *words: str) -> Path:
    """A disk image in qcow2, made by QEMU."""
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *words, source, target)
    return target


def opened(path: Path) -> DiskImage:
    with path.open("rb") as file:
        return DiskImage(file.fileno())


def everything(path: Path) -> bytes:
    disk = opened(path)
    return disk.read_at(0, disk.size)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk with a GPT, of which the second partition has files."""
    directory = tmp_path_factory.mktemp("disk")
    raw, tree = directory / "disk.raw", directory / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_text("a-machine\n")
    (tree / "data").write_bytes(content(3 * MIB))
    with raw.open("xb") as file:
        file.truncate(SIZE)
    tool("sfdisk", "--quiet", raw, stdin=TABLE.encode())
    offset, size = ROOT
    options = f"offset={offset},lazy_itable_init=0,lazy_journal_init=0"
    tool("mkfs.ext4", "-q", "-F", "-E", options, "-d", tree, raw, f"{size // 1024}k")
    with raw.open("r+b") as file:
        file.seek(MIB)
        file.write(content(2 * MIB, 2))
    return raw


@pytest.fixture(scope="module")
def layer(disk: Path) -> Path:
    """The layer of it."""
    path = disk.parent / "layer"
    ok("obd", "import", "-z", "-t", disk, path)
    return path


def test_a_disk_is_the_same_through_a_server(disk: Path, layer: Path, tmp_path: Path) -> None:
    server = NbdServer({"disk": Image([str(layer)])}, f"unix:{tmp_path / 'nbd'}")
    uri = f"nbd+unix:///disk?socket={tmp_path / 'nbd'}"
    tool("qemu-img", "compare", "-f", "raw", "-F", "raw", disk, uri)
    copy = convert(disk, tmp_path / "disk.qcow2", "-c")
    tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", copy, uri)
    server.stop()


@pytest.mark.parametrize("name", FORMATS)
def test_equal_disks_give_equal_layers(name: str, disk: Path, layer: Path, tmp_path: Path) -> None:
    image = convert(disk, tmp_path / "disk.qcow2", *FORMATS[name])
    assert everything(image) == disk.read_bytes()
    ok("obd", "import", "-z", "-t", image, tmp_path / "layer")
    assert (tmp_path / "layer").read_bytes() == layer.read_bytes()


def test_holes_and_threads_make_no_difference(disk: Path, layer: Path, tmp_path: Path) -> None:
    full = tmp_path / "full.raw"
    full.write_bytes(disk.read_bytes())
    ok("obd", "import", "-z", "-t", "--threads", "3", full, tmp_path / "layer")
    assert (tmp_path / "layer").read_bytes() == layer.read_bytes()


@pytest.mark.parametrize("name", ["raw", "zlib", "extended"])
def test_the_root_partition_alone(name: str, disk: Path, tmp_path: Path) -> None:
    image = disk if name == "raw" else convert(disk, tmp_path / "disk.qcow2", *FORMATS[name])
    done = ok("obd", "import", "-z", "--rootfs", image, tmp_path / "layer")
    assert done.out.startswith(f"{image}: the root is partition 2: ext4\n")
    config, root = tmp_path / "config.json", tmp_path / "root.raw"
    config.write_text(json.dumps({"lowers": [{"file": str(tmp_path / "layer")}]}))
    ok("obd", "export", config, root)
    start, size = ROOT
    assert root.read_bytes() == disk.read_bytes()[start : start + size]
    tool("e2fsck", "-fn", root)
    assert tool("debugfs", "-R", "cat /etc/hostname", root) == "a-machine\n"


def test_a_disk_without_a_root_is_refused_with_what_it_has(disk: Path, tmp_path: Path) -> None:
    broken = tmp_path / "disk.raw"
    shutil.copyfile(disk, broken)
    with broken.open("r+b") as file:
        file.seek(ROOT[0] + 1024)
        file.write(bytes(1024))
    done = run("obd", "import", "--rootfs", broken, tmp_path / "layer")
    assert (done.status, len(done.lines)) == (255, 1)
    assert "not-found: " in done.err and "2: type 4F68BCE3" in done.err.replace("4f68bce3", "4F68BCE3")
    assert not (tmp_path / "layer").exists()


# ---- overlaybd-apply


def target(directory: Path, size: int) -> Path:
    """A writable image in files of its own; its configuration."""
    pair = (str(directory / "data"), str(directory / "index"))
    obdcore.lsmt_create(*pair, size=size)
    config = directory / "config.json"
    config.write_text(json.dumps({"lowers": [], "upper": {"data": pair[0], "index": pair[1]}}))
    return config


def device(directory: Path) -> bytes:
    """What the image of `target` reads as."""
    image = Image([], (str(directory / "data"), str(directory / "index")))
    everything = image.read_at(0, image.size)
    image.close()
    return everything


@pytest.mark.parametrize("words", [["--no-extract-rootfs"], ["--extract-rootfs=false"]])
def test_apply_copies_a_whole_disk(words: list[str], disk: Path, tmp_path: Path) -> None:
    image = convert(disk, tmp_path / "disk.qcow2", *FORMATS["extended"])
    done = ok("overlaybd-apply", "--from_qcow2", *words, image, target(tmp_path, SIZE + MIB))
    assert done.out.endswith("qcow2 to overlaybd conversion done\n")
    assert device(tmp_path) == disk.read_bytes() + bytes(MIB)


@pytest.mark.parametrize("words", [[], ["--extract-rootfs"]])
def test_apply_extracts_the_root(words: list[str], disk: Path, tmp_path: Path) -> None:
    image = convert(disk, tmp_path / "disk.qcow2", *FORMATS["zlib"])
    start, size = ROOT
    done = ok("overlaybd-apply", "--from_qcow2", *words, image, target(tmp_path, size))
    assert "ext4 in partition 2" in done.out
    assert device(tmp_path) == disk.read_bytes()[start : start + size]
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(size))
    ok("overlaybd-apply", "--from_qcow2", "--raw", *words, image, raw)
    assert raw.read_bytes() == device(tmp_path)


def test_apply_leaves_what_is_not_allocated_and_discards_zeros(tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    commands = ("write -q -P 7 128k 64k", "write -q -z 256k 64k")
    tool("qemu-io", "-f", "qcow2", *(word for command in commands for word in ("-c", command)), image)
    raw = tmp_path / "raw"
    raw.write_bytes(b"\xaa" * MIB)
    ok("overlaybd-apply", "--from_qcow2", "--no-extract-rootfs", "--raw", image, raw)
    wanted = bytearray(b"\xaa" * MIB)
    wanted[128 << 10 : 192 << 10] = b"\x07" * 65536
    wanted[256 << 10 : 320 << 10] = bytes(65536)
    assert raw.read_bytes() == wanted


def test_apply_refuses_a_target_that_is_too_small(disk: Path, tmp_path: Path) -> None:
    image = convert(disk, tmp_path / "disk.qcow2")
    done = run("overlaybd-apply", "--from_qcow2", "--no-extract-rootfs", image, target(tmp_path, SIZE - MIB))
    assert (done.status, len(done.lines)) == (255, 1)
    assert done.err.startswith("qcow2 conversion failed: no-space: ")
    assert f"a disk of {SIZE} bytes does not fit on a device of {SIZE - MIB}" in done.err
    assert device(tmp_path) == bytes(SIZE - MIB)


def test_apply_refuses_what_is_for_layers_and_what_is_no_qcow2(disk: Path, tmp_path: Path) -> None:
    config = target(tmp_path, MIB)
    done = run("overlaybd-apply", "--from_qcow2", "--mkfs", disk, config)
    assert (done.status, done.err) == (
        255,
        "qcow2 conversion failed: --mkfs is for layers, not for --from_qcow2\n",
    )
    done = run("overlaybd-apply", "--from_qcow2", disk, config)
    assert done.status == 255
    assert done.err.startswith("qcow2 conversion failed: unsupported: ") and "not a qcow2 file" in done.err


# ---- backing files, other formats


def overlay(directory: Path) -> tuple[Path, Path]:
    """A raw disk and a qcow2 image upon it."""
    base, top = directory / "base.raw", directory / "top.qcow2"
    base.write_bytes(content(4 * MIB))
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, "-o", "extended_l2=on", top)
    commands = ("write -q -P 7 100k 3k", "write -q -z 1M 70k", "write -q -P 0 2M 64k", "discard -q 3M 128k")
    tool("qemu-io", "-f", "qcow2", *(word for command in commands for word in ("-c", command)), top)
    return base, top


def test_a_backing_file_is_not_opened(tmp_path: Path) -> None:
    _, top = overlay(tmp_path)
    done = run("obd", "import", top, tmp_path / "layer")
    assert (done.status, len(done.lines)) == (255, 1)
    for part in (
        f"unsupported: {top}: ",
        "backing file, which is not opened",
        "`qemu-img convert",
        "--no-backing",
    ):
        assert part in done.err
    done = run("overlaybd-apply", "--from_qcow2", top, target(tmp_path, 4 * MIB))
    assert done.status == 255 and "backing file, which is not opened" in done.err


def test_an_overlay_alone_is_a_layer_upon_that_of_its_backing_file(tmp_path: Path) -> None:
    base, top = overlay(tmp_path)
    ok("obd", "import", base, tmp_path / "lower")
    ok("obd", "import", "--no-backing", top, tmp_path / "upper")
    flat = tmp_path / "flat.raw"
    tool("qemu-img", "convert", "-O", "raw", top, flat)
    image = Image([str(tmp_path / "lower"), str(tmp_path / "upper")])
    assert image.read_at(0, image.size) == flat.read_bytes()


@pytest.mark.parametrize("kind", ["vmdk", "vdi", "vhdx", "vpc", "qed"])
def test_formats_of_others_are_refused_with_what_helps(kind: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    tool("qemu-img", "create", "-q", "-f", kind, image, "8M")
    done = run("obd", "import", image, tmp_path / "layer")
    assert (done.status, len(done.lines)) == (255, 1)
    assert f"of format {kind}" in done.err and "`qemu-img convert -O qcow2`" in done.err
    ok("obd", "import", "--format", "raw", image, tmp_path / "layer")


def test_other_files_that_an_image_names_are_not_opened(tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", image, "1M")
    done = run("obd", "import", image, tmp_path / "layer")
    assert done.status == 255 and "data is in another file, which is not opened" in done.err
    secret = ["--object", "secret,id=key,data=1234", "-o", "encrypt.format=aes,encrypt.key-secret=key"]
    tool("qemu-img", "create", "-q", "-f", "qcow2", *secret, image, "1M")
    done = run("obd", "import", image, tmp_path / "layer")
    assert done.status == 255 and "encrypted" in done.err


# ---- for conversions


def test_what_is_a_disk_is_told_from_what_is_none(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a disk")
    (tmp_path / "empty").write_bytes(b"")
    start, size = ROOT
    (tmp_path / "root").write_bytes(disk.read_bytes()[start : start + size])
    convert(disk, tmp_path / "qcow2")
    found = {path.name: disk_format(str(path)) for path in (disk, *tmp_path.iterdir())}
    assert found == {"disk.raw": "raw", "text": "", "empty": "", "root": "raw", "qcow2": "qcow2"}


def test_a_layer_says_what_file_system_it_has(disk: Path, tmp_path: Path) -> None:
    for rootfs, kind in ((True, "ext4"), (False, "")):
        with (tmp_path / str(rootfs)).open("xb") as out:
            done = layer_of_disk(str(disk), out.fileno(), {"algorithm": "zstd"}, rootfs=rootfs)
        assert done["file_system"] == kind
        assert Image([str(tmp_path / str(rootfs))]).size == (ROOT[1] if rootfs else SIZE)


def test_convert_makes_an_image_of_a_disk(disk: Path, layer: Path, tmp_path: Path) -> None:
    def convert_to(tag: str, source: Path, *words: str) -> tuple[str, dict[str, Any]]:
        target = f"oci:{tmp_path / 'layout'}:{tag}"
        common = ["--platform", "linux/arm64", "--work", str(tmp_path / "work")]
        done = ok("obd", "convert", *common, *words, source, target)
        inspected: dict[str, Any] = json.loads(ok("obd", "inspect", "--json", target).out)
        return done.out, inspected

    said, raw = convert_to("raw", disk)
    assert said.count(" built\n") == 1
    said, qcow2 = convert_to("qcow2", convert(disk, tmp_path / "disk.qcow2", *FORMATS["zstd"]))
    assert said.count(" reused\n") == 1
    said, again = convert_to("raw", disk)
    assert "(unchanged)" in said
    digest = json.loads((tmp_path / "layout/index.json").read_text())["manifests"][0]["digest"]
    manifest = json.loads(blob(tmp_path, digest).read_text())
    config = json.loads(blob(tmp_path, manifest["config"]["digest"]).read_text())
    (only,) = manifest["layers"]
    assert blob(tmp_path, only["digest"]).read_bytes() == layer.read_bytes()
    assert config["architecture"] == "arm64" and config["config"] == {}
    assert config["rootfs"]["diff_ids"] == [only["digest"]]
    assert raw["digest"] == qcow2["digest"] == again["digest"] == digest
    convert_to("root", disk, "--rootfs")
    (last,) = [
        e
        for e in json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
        if e["digest"] != digest
    ]
    (root,) = json.loads(blob(tmp_path, last["digest"]).read_text())["layers"]
    assert root["annotations"]["containerd.io/snapshot/overlaybd/blob-fs-type"] == "ext4"
    assert Image([str(blob(tmp_path, root["digest"]))]).size == ROOT[1]


def test_a_disk_goes_through_a_registry_to_a_machine(disk: Path, tmp_path: Path) -> None:
    image = convert(disk, tmp_path / "disk.qcow2", *FORMATS["extended-zstd"])
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache"), "cacheSizeGB": 1}
    (tmp_path / "service.json").write_text(json.dumps({"cacheConfig": cache}))
    with Registry(tmp_path / "registry") as registry:
        name = f"{registry.host}/vms/disk:1"
        done = ok("obd", "convert", "--work", tmp_path / "work", image, name)
        digest, size = done.out.split()[:2]
        data, index, config = tmp_path / "data", tmp_path / "index", tmp_path / "config.json"
        ok("overlaybd-create", data, index, "0")
        document = {
            "repoBlobUrl": f"{registry.repository('vms/disk')}/blobs",
            "lowers": [{"digest": digest, "size": int(size)}],
            "upper": {"data": str(data), "index": str(index)},
        }
        config.write_text(json.dumps(document))
        words = ["--service", str(tmp_path / "service.json"), "--nbd", f"unix:{tmp_path / 'nbd'}"]
        with serving(config, *words) as (_, uri):
            tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, uri)
            tool("qemu-io", "-f", "raw", "-c", "write -P 9 4M 64k", uri)
            fails("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, uri)


def blob(directory: Path, digest: str) -> Path:
    """A blob of the layout in `directory`."""
    return directory / "layout/blobs" / digest.replace(":", "/")


def test_convert_refuses_what_is_no_disk(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a disk")
    done = run("obd", "convert", tmp_path / "text", f"oci:{tmp_path / 'layout'}:x")
    assert (done.status, len(done.lines)) == (255, 1)
    assert "no disk image: neither qcow2, nor with partitions" in done.err


# ---- what QEMU writes, read here


CREATE = [
    "compat=0.10,cluster_size=512",
    "compat=0.10",
    "cluster_size=1k,lazy_refcounts=on",
    "cluster_size=2M",
    "compression_type=zstd,cluster_size=4k",
    "extended_l2=on,cluster_size=16k",
    "extended_l2=on,cluster_size=128k,compression_type=zstd",
]


def requests(numbers: random.Random, size: int) -> list[str]:
    """Requests of all kinds, as qemu-io has them."""
    made = []
    for _ in range(30):
        offset = numbers.randrange(size // 512) * 512
        length = min(size - offset, numbers.choice([512, 4096, 10240, 65536, 200 << 10]))
        kind = numbers.choice(
            ["write -P 7", "write -P 201", "write -z", "write -z -u", "discard", "write -c -P 9"]
        )
        if "-c" in kind:
            # Compressed are whole clusters, of the largest size here.
            offset, length = offset // MIB * MIB, MIB
        made.append(f"{kind} {offset} {length}")
    return made


@pytest.mark.parametrize("options", CREATE)
def test_what_qemu_wrote_reads_as_for_qemu(options: str, tmp_path: Path) -> None:
    numbers = random.Random(options)
    image, flat, size = tmp_path / "disk.qcow2", tmp_path / "flat", 5 * MIB + 1536
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, str(size))
    for round_ in range(2):
        made = [*requests(numbers, size - size % MIB), f"write -P 5 {size - 512} 512"]
        words = [word for request in made for word in ("-c", request)]
        # Some are refused, as compressed clusters are where there is something already.
        qemu_io = ["qemu-io", "-f", "qcow2", "--cache=unsafe", *words, str(image)]
        done = subprocess.run(qemu_io, capture_output=True, timeout=60, check=False)
        assert b"wrote 512/512 bytes at offset" in done.stdout
        tool("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, flat)
        assert everything(image) == flat.read_bytes(), (options, round_, made)
        tool("qemu-img", "snapshot", "-c", f"round {round_}", image)


def test_an_image_that_was_not_closed_is_read(tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", image, "1M")
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 7 64k 64k", "-c", "flush", "-c", "abort", image],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode < 0
    assert image.read_bytes()[79] & 1, "QEMU no longer marks an image as dirty"
    assert everything(image) == bytes(65536) + b"\x07" * 65536 + bytes(MIB - 131072)
