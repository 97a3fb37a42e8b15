"""What `obd cp` copies is the same as in the image, and never outside of its target, whatever is in it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import obdcore
from obd.errors import ObdError
from tests.e2e.commands import Done, ok, run
from tests.e2e.inside import grow, imported, look, mkfs_erofs, mkfs_ext4
from tests.e2e.trees import OWN, assert_same, tree

MIB = 1 << 20
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may keep owners")


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of all kinds of files."""
    path = tmp_path_factory.mktemp("tree") / "top"
    grow(path)
    return path


@as_root
def test_a_copy_has_all_that_the_original_has(tmp_path: Path, top: Path) -> None:
    layer = imported(mkfs_erofs(tmp_path / "raw", top, "--preserve-mtime"))
    done = ok("obd", "cp", "-r", f"{layer}:/", tmp_path / "copy")
    assert done.err == ""
    assert_same(tree(tmp_path / "copy"), tree(top))


def test_holes_stay_holes(tmp_path: Path, top: Path) -> None:
    layer = imported(mkfs_ext4(tmp_path / "raw", top, "-t ext4"))
    ok("obd", "cp", f"{layer}:/sizes/sparse", tmp_path / "copy")
    found = (tmp_path / "copy").stat()
    assert (tmp_path / "copy").read_bytes() == (top / "sizes/sparse").read_bytes()
    assert found.st_size == 9_000_000 and found.st_blocks * 512 < 1_000_000


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Path]:
    """A directory whose surroundings must stay as they are."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    before = tree(outside)
    (tmp_path / "yard").mkdir()
    yield tmp_path / "yard"
    assert_same(tree(outside), before)
    assert sorted(os.listdir(tmp_path / "yard")) == ["copy"]


def hostile(home: Path, old: bytes, new: bytes) -> Path:
    """A layer of the tree in `home/top`, with a name replaced by another one of the same length."""
    raw = mkfs_ext4(home / "raw", home / "top", "-t ext4 -b 1024 -O ^metadata_csum", "8M")
    image = raw.read_bytes()
    assert image.count(old) == 1 and len(old) == len(new)
    raw.write_bytes(image.replace(old, new))
    return imported(raw)


def test_a_link_and_a_directory_of_one_name_lead_nowhere(tmp_path: Path, yard: Path) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "top/sub-one").symlink_to(tmp_path / "outside")
    (tmp_path / "top/sub-two").mkdir()
    (tmp_path / "top/sub-two/precious").write_bytes(b"hostile")
    layer = hostile(tmp_path, b"sub-two", b"sub-one")
    for words in ([], ["-f"]):
        done = run("obd", "cp", "-r", *words, f"{layer}:/", yard / "copy")
        assert done.status == 255, done
        assert "exists: " in done.err


def test_a_link_that_was_at_the_target_is_not_followed(tmp_path: Path, yard: Path) -> None:
    (tmp_path / "top/sub").mkdir(parents=True)
    (tmp_path / "top/sub/precious").write_bytes(b"hostile")
    (tmp_path / "top/file").write_bytes(b"hostile")
    layer = imported(mkfs_ext4(tmp_path / "raw", tmp_path / "top", "-t ext4", "8M"))
    (yard / "copy").mkdir()
    (yard / "copy/sub").symlink_to(tmp_path / "outside")
    assert "is there already and no directory" in run("obd", "cp", "-r", f"{layer}:/", yard / "copy").err
    (yard / "copy/sub").unlink()
    (yard / "copy/file").unlink(missing_ok=True)
    (yard / "copy/file").symlink_to(tmp_path / "outside/precious")
    assert "exists: " in run("obd", "cp", "-r", f"{layer}:/", yard / "copy").err
    ok("obd", "cp", "-rf", f"{layer}:/", yard / "copy")
    assert not (yard / "copy/file").is_symlink()


@pytest.mark.parametrize("name", [b"../precious", b"/outside/pr", b"..\0xxxxxxxx"])
def test_names_that_lead_elsewhere_are_none(tmp_path: Path, yard: Path, name: bytes) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "top/harmless-xy").write_bytes(b"hostile")
    (tmp_path / "top/other").write_bytes(b"good")
    layer = hostile(tmp_path, b"harmless-xy", name)
    ok("obd", "cp", "-r", f"{layer}:/", yard / "copy")
    assert sorted(os.listdir(yard / "copy")) == [OWN, "other"]


def test_directories_in_circles_come_to_an_end(tmp_path: Path) -> None:
    (tmp_path / "top/a/b").mkdir(parents=True)
    raw = mkfs_ext4(tmp_path / "raw", tmp_path / "top", "-t ext4", "8M")
    subprocess.run(["debugfs", "-w", "-R", "ln /a /a/b/again", str(raw)], check=True, capture_output=True)
    layer = imported(raw)

    def told(done: Done) -> None:
        assert done.status == 255
        assert done.err == f"obd: corrupt: {layer}:/a/b/again: a directory that is in two places\n"

    told(run("obd", "ls", "-R", layer))
    told(run("obd", "cp", "-r", f"{layer}:/", tmp_path / "copy"))
    (tmp_path / "second").mkdir()
    other = imported(mkfs_ext4(tmp_path / "second/raw", tmp_path / "top", "-t ext4", "8M"))
    told(run("obd", "diff", other, layer))


def test_a_file_system_in_a_partition(tmp_path: Path, top: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small/file").write_bytes(b"in the second\n")
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(128 * MIB)
    table = (
        "label: gpt\nstart=1MiB, size=1MiB, type=U\nstart=4MiB, size=8MiB\nstart=16MiB, size=64MiB, type=S\n"
    )
    subprocess.run(["sfdisk", "-q", str(disk)], input=table.encode(), check=True, capture_output=True)
    second = mkfs_ext4(tmp_path / "raw", tmp_path / "small", "-t ext4", "8M").read_bytes()
    third = mkfs_erofs(tmp_path / "raw3", top, "").read_bytes()
    with disk.open("r+b") as file:
        file.seek(4 * MIB)
        file.write(second)
        file.seek(16 * MIB)
        file.write(third)
    layer = imported(disk)
    assert ok("obd", "cat", f"{layer}:/file").out == "in the second\n"
    assert "sizes" in ok("obd", "ls", layer, "--partition", "3").out.splitlines()
    assert "there is no partition 9 (there are: 1 of 1 MiB" in run("obd", "ls", layer, "--partition", "9").err
    assert "unsupported: " in run("obd", "ls", layer, "--partition", "1").err
    with look(layer) as files:
        assert (files.native.partition, files.native.kind) == (2, "ext4")
    whole = imported(mkfs_ext4(tmp_path / "whole", tmp_path / "small", "-t ext4", "8M"))
    with pytest.raises(obdcore.Error, match="the device has no partitions"):
        obdcore.FileSystem(obdcore.Image([str(whole)]), partition=1)


def test_an_image_that_was_in_use_is_read_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    raw = mkfs_ext4(tmp_path / "raw", tmp_path / "top", "-t ext4", "16M")
    subprocess.run(
        ["debugfs", "-w", "-R", "feature needs_recovery", str(raw)], check=True, capture_output=True
    )
    done = ok("obd", "ls", imported(raw))
    assert done.err.startswith("WARNING: ") and "what was written last may be missing" in done.err


def test_a_path_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "top" / "/".join(["d"] * 500)).mkdir(parents=True)
    layer = imported(mkfs_ext4(tmp_path / "raw", tmp_path / "top", "-t ext4 -b 1024", "16M"))
    with look(layer) as files, pytest.raises(ObdError, match=r"limit: .*too deep"):
        list(files.walk(b"/", files.stat(b"/").ino))
    done = run("obd", "cp", "-r", f"{layer}:/", tmp_path / "copy")
    assert done.status == 255 and "too deep" in done.err
