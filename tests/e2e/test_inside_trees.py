"""What is read inside images is what is there: of upstream's layers, of ours, of all that mkfs makes."""

import os
import subprocess
from pathlib import Path

import pytest

from obd.errors import ObdError
from tests.e2e.commands import golden, ok
from tests.e2e.inside import grow, imported, look, mkfs_erofs, mkfs_ext4, tree_inside
from tests.e2e.test_apply import BELOW, LISTED, archive, meant, raw
from tests.e2e.trees import Tree, assert_same, listing, tree

S = 10**9


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of all kinds of files."""
    path = tmp_path_factory.mktemp("tree") / "top"
    grow(path)
    return path


def whole_seconds(found: Tree) -> Tree:
    """The tree without what mke2fs does not copy: nanoseconds, and the attributes of the root."""
    return {path: {**row, "mtime": row["mtime"] // S * S} for path, row in found.items() if path != "."}


@pytest.mark.parametrize("name", LISTED)
def test_upstreams_layers_hold_the_listed_trees(tmp_path: Path, name: str) -> None:
    lowers = []
    for layer in [*BELOW.get(name, []), name]:
        path = tmp_path / f"{layer}.layer"
        path.write_bytes(golden(f"apply/{layer}.layer"))
        lowers.append(f'{{"file": "{path}"}}')
    (tmp_path / "config.json").write_text(f'{{"lowers": [{", ".join(lowers)}]}}')
    with look(tmp_path / "config.json") as files:
        assert_same(tree_inside(files), listing(golden(f"apply/{name}.listing.jsonl").decode()))


@pytest.mark.parametrize("name", LISTED)
def test_our_layers_hold_what_the_tars_mean(tmp_path: Path, name: str) -> None:
    image = raw(tmp_path / "raw.img")
    words = ["--mkfs"]
    for layer in [*BELOW.get(name, []), name]:
        ok("overlaybd-apply", "--raw", *words, archive(tmp_path, layer), image)
        words = []
    with look(imported(image)) as files:
        assert_same(tree_inside(files), meant(name))


@pytest.mark.parametrize(
    "options",
    [
        "-t ext4",
        "-t ext4 -b 1024",
        "-t ext4 -b 65536",
        "-t ext4 -b 2048 -I 512 -O ^metadata_csum,^64bit",
        "-t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode",
        "-t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode,^flex_bg,^64bit,sparse_super2",
        "-t ext4 -b 1024 -g 2048 -O meta_bg,^resize_inode,^flex_bg,^sparse_super",
        "-t ext4 -b 4096 -O bigalloc -C 16384",
        "-t ext4 -b 1024 -O ^extents,^64bit",
        "-t ext3 -b 4096",
        "-t ext2 -b 1024 -O ^filetype",
        "-t ext4 -b 4096 -O large_dir,ea_inode,quota",
    ],
)
def test_what_mke2fs_makes(tmp_path: Path, top: Path, options: str) -> None:
    layer = imported(mkfs_ext4(tmp_path / "raw", top, options))
    with look(layer) as files:
        assert files.native.kind == "ext4"
        assert_same(whole_seconds(tree_inside(files)), whole_seconds(tree(top)))


def test_directories_with_an_index(tmp_path: Path, top: Path) -> None:
    image = mkfs_ext4(tmp_path / "raw", top, "-t ext4 -b 1024")
    subprocess.run(["e2fsck", "-fyD", str(image)], check=False, capture_output=True)
    shown = subprocess.run(["debugfs", "-R", "htree_dump /many", str(image)], capture_output=True, check=True)
    assert b"Number of entries" in shown.stdout
    with look(imported(image)) as files:
        assert_same(whole_seconds(tree_inside(files)), whole_seconds(tree(top)))


def test_attributes_in_inodes_of_their_own(tmp_path: Path, top: Path) -> None:
    image = mkfs_ext4(tmp_path / "raw", top, "-t ext4 -b 4096 -O ea_inode")
    # With its name it is larger than a block; debugfs takes no larger one.
    value = os.urandom(4096)
    (tmp_path / "value").write_bytes(value)
    setting = f"ea_set -f {tmp_path / 'value'} /sizes/1 user.large"
    subprocess.run(["debugfs", "-w", "-R", setting, str(image)], check=True, capture_output=True)
    with look(imported(image)) as files:
        assert files.native.xattrs(b"sizes/1")[b"user.large"] == value


def test_old_inodes_without_room_for_more(tmp_path: Path, top: Path) -> None:
    image = mkfs_ext4(tmp_path / "raw", top, "-t ext4 -b 1024 -I 128")
    with look(imported(image)) as files:
        found = {path: {**row, "xattrs": {}} for path, row in whole_seconds(tree_inside(files)).items()}
    wanted = {path: {**row, "xattrs": {}} for path, row in whole_seconds(tree(top)).items()}
    assert_same(found, wanted)


def test_blocks_that_are_not_written_yet_are_zeros(tmp_path: Path, top: Path) -> None:
    image = mkfs_ext4(tmp_path / "raw", top, "-t ext4")
    # Blocks that are its own but not written, and full of something.
    script = "fallocate /sizes/4096 1 9\nset_inode_field /sizes/4096 size 40960\n"
    subprocess.run(
        ["debugfs", "-w", "-f", "-", str(image)], input=script.encode(), check=True, capture_output=True
    )
    extents = subprocess.run(
        ["debugfs", "-R", "ex /sizes/4096", str(image)], capture_output=True, check=True, text=True
    ).stdout
    assert "Uninit" in extents
    with look(imported(image)) as files:
        content = b"".join(files.read(b"/sizes/4096"))
    assert content == (top / "sizes/4096").read_bytes() + bytes(9 * 4096)


@pytest.mark.parametrize(
    "options",
    ["", "-x1", "-Eforce-inode-extended", "-Enoinline_data", "--chunksize=4096", "--chunksize=65536"],
)
def test_what_mkfs_erofs_makes(tmp_path: Path, top: Path, options: str) -> None:
    image = mkfs_erofs(tmp_path / "raw", top, f"--preserve-mtime {options}")
    with look(imported(image)) as files:
        assert files.native.kind == "erofs"
        assert_same(tree_inside(files), tree(top))


def test_compressed_files_are_refused_but_listed(tmp_path: Path, top: Path) -> None:
    image = mkfs_erofs(tmp_path / "raw", top, "-zlz4hc")
    with look(imported(image)) as files:
        info = files.stat(b"/sizes/2000000")
        assert info.size == 2_000_000
        with pytest.raises(ObdError, match=r"unsupported: .*:/sizes/2000000: a compressed file"):
            list(files.read(b"/sizes/2000000"))


@pytest.mark.parametrize(
    ("program", "name"), [(["mkfs.xfs", "-q", "-f"], "XFS"), (["mkfs.btrfs", "-q", "-f"], "btrfs")]
)
def test_other_file_systems_are_named(tmp_path: Path, program: list[str], name: str) -> None:
    image = raw(tmp_path / "raw", 512 << 20)
    subprocess.run([*program, str(image)], check=True, capture_output=True)
    with pytest.raises(ObdError, match=rf"unsupported: .*: {name}: only ext2, ext3, ext4 and EROFS"):
        look(imported(image))
