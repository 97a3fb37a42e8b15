"""What the existing Go snapshotter and convertor do with the tools alone, in their order and their words."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

import obdcore
from obd.image import open_device
from obd.snapshotter.image import is_layer
from tests.e2e.commands import ok, run
from tests.e2e.oci_images import Layer
from tests.e2e.upstream import MAGICS, Convertor, ToolError, Tree, create, is_local_block, tool

CONTENT = os.urandom(300_000)


def tars(home: Path) -> list[Path]:
    """Two layers: files, of which the second replaces one and takes one away."""
    base = Layer("").add("etc", kind=b"5").add("etc/name", data=b"one\n").add("etc/gone", data=b"gone\n")
    base.add("big", data=CONTENT)
    top = Layer("").add("etc/name", data=b"two\n").add("etc/.wh.gone").add("etc/more", data=b"more\n")
    paths = []
    for number, layer in enumerate((base, top)):
        paths.append(home / f"{number}.tar")
        paths[-1].write_bytes(layer.raw())
    return paths


def config(home: Path, lowers: list[dict[str, Any]]) -> Path:
    path = home / "image.json"
    path.write_text(json.dumps({"repoBlobUrl": "", "lowers": lowers, "upper": {}, "resultFile": ""}))
    return path


def assert_shows_both(image: Path) -> None:
    """That an image has the files of both layers."""
    assert ok("obd", "cat", f"{image}:/etc/name").out == "two\n"
    assert ok("obd", "cat", f"{image}:/etc/more").out == "more\n"
    assert run("obd", "cat", f"{image}:/etc/gone").status
    ok("obd", "cp", f"{image}:/big", image.with_name("big"))
    assert image.with_name("big").read_bytes() == CONTENT


def test_the_convertor_makes_layers(tmp_path: Path) -> None:
    convertor = Convertor(tmp_path / "work")
    blobs = [convertor.add(tar) for tar in tars(tmp_path)]
    trailers = [obdcore.layer_info(str(blob))["lsmt"]["trailer"] for blob in blobs]
    assert trailers[1]["parent_uuid"] == trailers[0]["uuid"]
    for blob in blobs:
        head = blob.read_bytes()[:2048]
        assert (
            head.startswith(b"overlaybd.pax\0")
            and head[1024:].startswith(b"overlaybd.commit\0")
            and head[1536:].startswith(MAGICS[0])
        )
        assert oct(blob.stat().st_mode & 0o777) == "0o644"
    assert_shows_both(config(tmp_path, convertor.lowers))


def test_the_convertor_without_mkfs_puts_the_base_layer_below(tmp_path: Path) -> None:
    base = tmp_path / "ext4_64"
    data, index = tmp_path / "data", tmp_path / "index"
    ok("overlaybd-create", "--mkfs", data, index, "64")
    ok("overlaybd-commit", "-z", data, index, base)
    convertor = Convertor(tmp_path / "work", size_gib=64, base_layer=base)
    for tar in tars(tmp_path):
        convertor.add(tar)
    assert_shows_both(config(tmp_path, convertor.lowers))


@pytest.mark.parametrize("packed", [False, True])
def test_the_convertor_makes_metadata_of_layers(tmp_path: Path, packed: bool) -> None:
    convertor = Convertor(tmp_path / "work")
    for tar in tars(tmp_path):
        if packed:
            tar.write_bytes(gzip.compress(tar.read_bytes()))
        home = convertor.add_turbo(tar)
        assert (home / "gzip.meta").exists() == packed
    assert_shows_both(config(tmp_path, convertor.lowers))


def test_layers_that_containerd_unpacked_are_converted(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for number, tar in enumerate(tars(tmp_path), 1):
        tree.new(number)
        tar.rename(tree.at(number, "layer.tar"))
        tree.convert_layer_tar(number, number - 1 or None)
        assert is_local_block(tree.at(number, "fs"))
    assert_shows_both(tree.at(2, "block/config.v1.json"))


def assert_reads(tree: Tree, number: int) -> None:
    """That a device has the content, as it was written, and says so."""
    with open_device(tree.at(number, "block/config.v1.json")) as device:
        assert device.read(4096, 4096) == CONTENT[:4096] and device.size == 1 << 30
    assert tree.result(number) == "success"


@pytest.mark.parametrize("kind", ["append", "sparse"])
def test_a_writable_layer_is_sealed_and_committed(tmp_path: Path, kind: str) -> None:
    tree = Tree(tmp_path)
    for number in (1, 2):
        tree.new(number)
    tree.make_writable(1, None, size_gib=1, kind=kind)
    upper = tree.read(1)["upper"]
    assert list(upper) == ["index", "data", "vsize"]
    assert [oct(os.stat(upper[name]).st_mode & 0o777) for name in ("data", "index")] == ["0o644"] * 2
    create(tree.at(1, "block"), "1")  # there already: nothing is called
    with pytest.raises(ToolError, match=r"failed to overlaybd-create: .*exist"):
        tool("overlaybd-create", upper["data"], upper["index"], "1")
    image = obdcore.Image([], (upper["data"], upper["index"]))
    image.write_at(4096, CONTENT[:4096])
    image.close()
    sealed = tree.seal(1, None)
    assert not tree.at(1, "block/writable_index").exists()
    tree.make_writable(2, 1)
    assert "vsize" not in tree.read(2)["upper"]
    assert_reads(tree, 2)
    temporary = tree.at(1, "fs/overlaybd.commit.temp")
    tool("overlaybd-commit", "--commit_sealed", sealed, temporary, "-z", "-t")
    with pytest.raises(ToolError, match=r"failed to overlaybd-commit: .*exist"):
        tool("overlaybd-commit", "--commit_sealed", sealed, temporary, "-z", "-t")
    commit = temporary.rename(tree.at(1, "fs/overlaybd.commit"))
    assert is_layer(str(commit)) and not is_local_block(tree.at(1, "fs")), "it is in a tar"
    Path(sealed).unlink()
    assert_reads(tree, 2)  # which names but the directory


def test_what_a_tool_says_of_a_failure_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(
        ToolError, match=f"failed to overlaybd-apply: (?s:.)*{tmp_path}/layer.tar(?s:.)*exit status"
    ):
        tool("overlaybd-apply", tmp_path / "layer.tar", tmp_path / "config.json")
    with pytest.raises(ToolError, match=f"{tmp_path}/writable_(?s:.)*exit status"):
        tool("overlaybd-commit", "--seal", tmp_path / "writable_data", tmp_path / "writable_index")
    assert list(tmp_path.iterdir()) == []
