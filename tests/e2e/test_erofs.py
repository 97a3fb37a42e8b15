"""Layers applied to EROFS: the trees that they mean, clean file systems, the same bytes each time."""

import json
import os
from pathlib import Path

import pytest

import obdcore
from tests.e2e.commands import golden, ok
from tests.e2e.test_apply import BELOW, LISTED, MIB, S, meant, raw
from tests.e2e.test_turbo_apply import Layers, plain, stored
from tests.e2e.trees import Tree, assert_clean, assert_same, listing, mounted, needs_erofs, needs_loop, tree


def apply(target: obdcore.Image | Path, directory: Path, name: str) -> dict[str, object]:
    """Applies the tar of a golden vector."""
    path = directory / f"{name}.tar"
    path.write_bytes(golden(f"apply/tars/{name}.tar"))
    source = os.open(path, os.O_RDONLY)
    try:
        return obdcore.erofs_apply(str(target) if isinstance(target, Path) else target, source)
    finally:
        os.close(source)


@needs_loop
@needs_erofs
@pytest.mark.parametrize("name", LISTED)
def test_trees_are_what_the_tars_mean(tmp_path: Path, name: str) -> None:
    image, again = raw(tmp_path / "raw.img"), raw(tmp_path / "again.img")
    for layer in [*BELOW.get(name, []), name]:
        apply(image, tmp_path, layer)
        assert_clean(image, "erofs")
        apply(again, tmp_path, layer)
        assert image.read_bytes() == again.read_bytes()
    wanted = meant(name)
    if name == "gnu-base256":
        # What ext4 cannot say.
        wanted["b/mtime"]["mtime"] = 99999999999 * S
    with mounted(image, "erofs") as root:
        assert_same(tree(root), wanted)


def layered(directory: Path, names: list[str]) -> Path:
    """The device, as a raw image, that a layer for each of these golden vectors makes."""
    lowers: list[str | obdcore.RemoteBlob] = []
    for name in names:
        data, index = str(directory / f"{name}.data"), str(directory / f"{name}.index")
        obdcore.lsmt_create(data, index, size=64 * MIB)
        image = obdcore.Image(lowers, (data, index))
        apply(image, directory, name)
        image.close()
        layer = directory / f"{name}.layer"
        with layer.open("xb") as file:
            obdcore.lsmt_commit(data, index, file.fileno())
        lowers.append(str(layer))
    flat = directory / "flat.img"
    image = obdcore.Image(lowers)
    flat.write_bytes(image.read_at(0, image.size))
    return flat


@needs_loop
@needs_erofs
def test_layers_of_an_image(tmp_path: Path) -> None:
    """Each layer is small, and all are one file system."""
    names = ["lower", "upper", "upper2"]
    flat = layered(tmp_path, names)
    sizes = [(tmp_path / f"{name}.layer").stat().st_size for name in names]
    assert max(sizes[1:]) < sizes[0] < 256 << 10, sizes
    assert_clean(flat, "erofs")
    with mounted(flat, "erofs") as root:
        assert_same(tree(root), meant("upper2"))


@pytest.mark.parametrize("name", ["badsum", "truncated", "fileasdir", "hlmissing", "hldir"])
def test_after_an_error_all_is_as_it_was(tmp_path: Path, name: str) -> None:
    image = raw(tmp_path / "raw.img")
    apply(image, tmp_path, "lower")
    blocks = os.stat(image).st_size
    before = image.read_bytes()
    with pytest.raises(obdcore.Error):
        apply(image, tmp_path, name)
    assert os.stat(image).st_size == blocks
    end = 4096 * int.from_bytes(before[1060:1064], "little")
    assert image.read_bytes()[:end] == before[:end]
    apply(image, tmp_path, "upper")
    assert_clean(image, "erofs")


def test_what_is_no_erofs_is_not_touched(tmp_path: Path) -> None:
    image = raw(tmp_path / "raw.img")
    obdcore.ext4_create(str(image))
    with pytest.raises(obdcore.Error, match="something that is no EROFS"):
        apply(image, tmp_path, "lower")
    assert_clean(image)
    with pytest.raises(obdcore.Error, match="too small for an EROFS"):
        apply(raw(tmp_path / "small.img", 4096), tmp_path, "lower")


class Turbo(Layers):
    """Layers of turboOCI with EROFS."""

    def flat(self) -> Path:
        config, image = self.home / "image.json", self.home / f"{len(self.lowers)}.img"
        config.write_text(json.dumps({"lowers": self.lowers, "upper": {}}))
        ok("obd", "export", config, image)
        assert_clean(image, "erofs")
        return image

    def tree(self) -> Tree:
        with mounted(self.flat(), "erofs") as root:
            return tree(root)


@needs_loop
@needs_erofs
@pytest.mark.parametrize("name", ["basic", "sparse-pax10", "xattr"])
def test_layers_by_reference(tmp_path: Path, name: str) -> None:
    layers = Turbo(tmp_path / "layers")
    layers.add(plain(tmp_path, name), "--fstype", "erofs")
    assert_same(layers.tree(), meant(name))


@needs_loop
@needs_erofs
def test_layers_by_reference_on_one_that_upstream_made(tmp_path: Path) -> None:
    layers = Turbo(tmp_path / "layers")
    lower = {"file": stored(tmp_path, "elower.erofs.fs.meta"), "targetFile": plain(tmp_path, "lower")}
    (tmp_path / "layers").mkdir()
    layers.lowers.append({key: str(path) for key, path in lower.items()})
    assert_same(layers.tree(), listing(golden("turbo/elower.erofs.listing.jsonl").decode()))
    layers.add(stored(tmp_path, "upper.tar.gz"), "--fstype", "erofs")
    wanted = meant("upper")
    # Nobody says what the root is: it stays what upstream makes it.
    wanted["."]["mode"] = "0777"
    assert_same(layers.tree(), wanted)


@needs_loop
@needs_erofs
def test_the_command_applies_to_it(tmp_path: Path) -> None:
    image, tar = raw(tmp_path / "raw.img"), tmp_path / "basic.tar"
    tar.write_bytes(golden("apply/tars/basic.tar"))
    done = ok("overlaybd-apply", "--raw", "--mkfs", "--fstype", "erofs", tar, image)
    assert done.out == "overlaybd-apply done\n"
    with mounted(image, "erofs") as root:
        assert_same(tree(root), meant("basic"))
