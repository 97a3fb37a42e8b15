"""`obd convert` of what is on this machine: directories with root file systems."""

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

import obdcore
from tests.e2e.commands import ok, run
from tests.e2e.oci_images import Layout
from tests.e2e.trees import Tree, assert_clean, assert_same, mounted, needs_loop, tree

ACL = "0200000001000600ffffffff0200040031d4000004000400ffffffff10000600ffffffff20000400ffffffff"


def convert(home: Path, source: str | Path, name: str, *words: str) -> dict[str, Any]:
    """What the command says of its work, which must succeed."""
    done = ok("obd", "convert", "--json", "--work", home / "work", source, f"oci:{home}/out:{name}", *words)
    return dict(json.loads(done.out))


def blob(home: Path, result: dict[str, Any]) -> Path:
    """The file of the one layer."""
    (layer,) = result["images"][0]["layers"]
    return home / "out/blobs" / str(layer["digest"]).replace(":", "/")


def furnish(root: Path) -> None:
    """Files of every kind, with everything that a file can have."""
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root")
    os.chown(root / "etc/passwd", 3_000_000_000, 70_000)
    os.utime(root / "etc/passwd", ns=(1, 1234567890_987654321))
    (root / "etc/old").write_bytes(b"")
    os.utime(root / "etc/old", ns=(1, -5_500_000_000))
    os.link(root / "etc/passwd", root / "etc/again")
    (root / ("n" * 200)).mkdir(mode=0o1777)
    (root / os.fsdecode(b"not-\xff-utf8")).write_text("x")
    (root / "umläut").symlink_to("t" * 300)
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    os.setxattr(root / "etc", "user.note", b"bytes\0\xff")
    os.setxattr(root / "etc/old", "security.capability", bytes.fromhex("01000002" + "00040000" + 12 * "00"))
    os.setxattr(root / "etc/old", "system.posix_acl_access", bytes.fromhex(ACL))
    os.utime(root, ns=(1, 1_600_000_000_000_000_001))


@needs_loop
def test_a_directory(tmp_path: Path) -> None:
    root = tmp_path / "root"
    furnish(root)
    wanted: Tree = tree(root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "etc/socket"))
    wanted["etc"]["mtime"] = (root / "etc").stat().st_mtime_ns
    found = convert(tmp_path, root, "v1", "--platform", "linux/arm64", "--vsize", "1")
    device = obdcore.Image([str(blob(tmp_path, found))])
    image = tmp_path / "flat.img"
    with image.open("wb") as file:
        file.truncate(device.size)
        at = 0
        for length, kind in device.extents(0, device.size):
            if kind == "data":
                file.seek(at)
                file.write(device.read_at(at, length))
            at += length
    assert_clean(image)
    with mounted(image) as point:
        assert_same(tree(point), wanted)
    out = Layout(tmp_path / "out")
    config = out.read(out.read(out.tagged("v1"))["config"])
    assert (config["os"], config["architecture"]) == ("linux", "arm64")


def test_the_same_tree_is_the_same_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        furnish(tmp_path / name)
        for directory, directories, files in os.walk(tmp_path / name):
            for each in (".", *directories, *files):
                os.utime(os.path.join(directory, each), ns=(0, 1), follow_symlinks=False)
    first = convert(tmp_path, f"dir:{tmp_path}/a", "v1")
    assert convert(tmp_path, f"dir:{tmp_path}/b", "v1")["unchanged"]
    (tmp_path / "b/etc/passwd").write_text("toor")
    assert convert(tmp_path, f"dir:{tmp_path}/b", "v1")["digest"] != first["digest"]


def test_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for word, why in ((f"{tmp_path}/nowhere", "No such file"), (f"dir:{tmp_path}/file", "not a directory")):
        done = run("obd", "convert", "--work", tmp_path / "work", word, f"oci:{tmp_path}/out:v1")
        assert (done.status, len(done.lines)) == (255, 1) and why in done.err, done.err


def test_a_full_disk_ends_it(tmp_path: Path) -> None:
    root, work = tmp_path / "root", tmp_path / "work"
    root.mkdir()
    work.mkdir()
    (root / "large").write_bytes(os.urandom(32 << 20))
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(work)]
    if (done := subprocess.run(mount, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        failed = run("obd", "convert", "--work", work, f"dir:{root}", f"oci:{tmp_path}/out:v1")
        assert failed.status == 255
        assert "no-space: " in failed.err and failed.err.count("\n") == 1
        assert [path.name for path in (work / "runs").iterdir() if path.is_dir()] == []
    finally:
        subprocess.run(["umount", str(work)], check=True)
