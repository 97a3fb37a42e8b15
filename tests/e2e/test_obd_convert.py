"""`obd convert`: images mean what their originals do, the same bytes each time, as snapshotters want them."""

import json
import os
import random
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

import obdcore
from obd.convert import build
from obd.convert.convert import convert as run_conversion
from obd.convert.options import Options
from obd.convert.target import Target
from obd.errors import ObdError
from obd.oci import open_destination, open_source
from obd.service import Service
from tests.e2e.commands import Done, ok, run
from tests.e2e.oci_images import Layer, Layout, sha256
from tests.e2e.trees import assert_clean, assert_same, mounted, needs_loop, tree

PREFIX = "containerd.io/snapshot/overlaybd/"
MIB = 1 << 20
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


class Silent:
    """Nobody is told anything."""

    def work(self, *_: object) -> None:
        pass

    def tick(self) -> None:
        pass


def base() -> Layer:
    """A layer with something of everything."""
    layer = Layer()
    layer.add("bin", tarfile.DIRTYPE).add("bin/sh", data=b"#!" * 5000, mode=0o755, uid=1, gid=2)
    layer.add("etc", tarfile.DIRTYPE).add("etc/gone", data=b"soon").add("etc/kept", data=b"k" * 70000)
    layer.add("bin/link", tarfile.SYMTYPE, linkname="sh", mode=0o777)
    layer.add("bin/hard", tarfile.LNKTYPE, linkname="bin/sh", mode=0o755, uid=1, gid=2)
    layer.add("opaque", tarfile.DIRTYPE).add("opaque/below", data=b"b")
    layer.add("dev", tarfile.DIRTYPE).add("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3)
    layer.add("cap", data=b"c", pax_headers={"SCHILY.xattr.user.note": "text"})
    return layer


def changes(number: int, compression: str = "gzip") -> Layer:
    """A layer that changes what is below."""
    layer = Layer(compression)
    layer.add("etc/.wh.gone").add("opaque/.wh..wh..opq").add("opaque/above", data=b"a" * number)
    layer.add(f"new{number}", tarfile.DIRTYPE).add(f"new{number}/file", data=os.urandom(3000) * number)
    return layer


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "source")


def convert(home: Path, *words: str | Path, work: str = "work") -> Done:
    """Runs the command, which must succeed."""
    return ok("obd", "convert", "--work", home / work, *words)


def opened(layout: Layout, name: str) -> dict[str, Any]:
    """The manifest of a converted image."""
    return dict(layout.read(layout.tagged(name)))


def flat(layout: Layout, manifest: dict[str, Any], image: Path, count: int = 0) -> Path:
    """The device that the first `count` (0: all) layers of a converted image make, as a raw file."""
    layers = [str(layout.path / "blobs" / each["digest"].replace(":", "/")) for each in manifest["layers"]]
    device = obdcore.Image(list(layers[:count] if count else layers))
    with image.open("xb") as file:
        file.truncate(device.size)
        at = 0
        for length, kind in device.extents(0, device.size):
            for start in range(at, at + length, 1 << 20) if kind == "data" else ():
                file.seek(start)
                file.write(device.read_at(start, min(1 << 20, at + length - start)))
            at += length
    device.close()
    return image


@needs_loop
def test_the_tree_is_that_of_the_layers(tmp_path: Path, layout: Layout) -> None:
    layers = [base(), changes(1), changes(2, "")]
    source = layout.tag(layout.image(layers), "v1")
    convert(tmp_path, source, f"oci:{tmp_path}/out:v1", "--vsize", "1")
    out = Layout(tmp_path / "out")
    manifest = opened(out, "v1")
    for count in range(1, len(layers) + 1):
        assert_clean(flat(out, manifest, tmp_path / f"{count}.img", count))
    unpacked = tmp_path / "unpacked"
    ok_umoci(source, unpacked)
    with mounted(tmp_path / f"{len(layers)}.img") as root:
        assert_same(tree(root), tree(unpacked / "rootfs"))


def ok_umoci(source: str, bundle: Path) -> None:
    """Unpacks an image as root."""
    name = source.removeprefix("oci:")
    subprocess.run(["umoci", "unpack", "--image", name, bundle], check=True, capture_output=True)


def test_the_documents_are_what_snapshotters_expect(tmp_path: Path, layout: Layout) -> None:
    original = layout.image([base(), changes(1)], annotations={"org.example": "kept"})
    convert(tmp_path, layout.tag(original, "v1"), f"oci:{tmp_path}/out:v1")
    out = Layout(tmp_path / "out")
    manifest, before = opened(out, "v1"), layout.read(original)
    config, old = out.read(manifest["config"]), layout.read(before["config"])
    assert config == {
        **old,
        "rootfs": {"type": "layers", "diff_ids": [e["digest"] for e in manifest["layers"]]},
    }
    assert list(config) == list(old), "the order of keys too"
    assert manifest["annotations"]["org.example"] == "kept"
    assert manifest["annotations"]["overlaybd.convert.source"] == original["digest"]
    chain = ""
    for layer, diff_id in zip(manifest["layers"], old["rootfs"]["diff_ids"], strict=True):
        assert layer["mediaType"] == LAYER_TYPE
        assert layer["annotations"] == {
            f"{PREFIX}version": "0.1.0",
            f"{PREFIX}blob-digest": layer["digest"],
            f"{PREFIX}blob-size": str(layer["size"]),
            f"{PREFIX}blob-fs-type": "ext4",
        }
        data = out.bytes(layer["digest"])
        assert (sha256(data), len(data)) == (layer["digest"], layer["size"])
        info = obdcore.layer_info(str(out.path / "blobs" / layer["digest"].replace(":", "/")))
        parent, chain = chain, sha256(f"{chain} {diff_id}".encode()) if chain else diff_id
        assert info["tar"]["name"] == "overlaybd.commit"
        assert info["zfile"]["algorithm"] == "lz4"
        assert info["lsmt"]["trailer"]["uuid"] == dashed(chain)
        assert info["lsmt"]["trailer"]["parent_uuid"] == (dashed(parent) if parent else NULL)
        assert info["lsmt"]["trailer"]["virtual_size"] == 64 << 30


NULL = "00000000-0000-0000-0000-000000000000"


def dashed(chain: str) -> str:
    """The uuid that a chain ID gives."""
    digits = chain.removeprefix("sha256:")
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32])).upper()


def digests(home: Path, source: str, name: str, *words: str) -> list[str]:
    """Digests of the manifest and all layers that a fresh conversion gives."""
    done = convert(home, source, f"oci:{home}/{name}:v1", "--json", *words, work=f"work-{name}")
    found = json.loads(done.out)
    return [found["digest"], *(layer["digest"] for layer in found["images"][0]["layers"])]


def test_the_same_bytes_whatever_the_jobs(tmp_path: Path, layout: Layout) -> None:
    source = layout.tag(layout.image([base(), changes(1), changes(2), changes(3), changes(4)]), "v1")
    one = digests(tmp_path, source, "one", "--jobs", "1")
    assert digests(tmp_path, source, "four", "--jobs", "4") == one
    assert digests(tmp_path, source, "again") == one


def test_how_the_original_is_compressed_makes_no_difference(tmp_path: Path, layout: Layout) -> None:
    found = []
    raw = [base().raw(), changes(1).raw()]
    for compression in ("", "gzip", "zstd"):
        layers = [Layer(compression), Layer(compression)]
        for layer, data in zip(layers, raw, strict=True):
            layer.raw = lambda data=data: data  # type: ignore[method-assign, misc]
        name = compression or "plain"
        source = layout.tag(layout.image(layers), name)
        found.append(digests(tmp_path, source, name)[1:])
    assert found[0] == found[1] == found[2]


def test_zstd_and_larger_blocks(tmp_path: Path, layout: Layout) -> None:
    source = layout.tag(layout.image([base(), changes(1)]), "v1")
    convert(tmp_path, source, f"oci:{tmp_path}/out:v1", "--algorithm", "zstd", "--bs", "64", "--vsize", "3")
    out = Layout(tmp_path / "out")
    for layer in opened(out, "v1")["layers"]:
        info = obdcore.layer_verify(str(out.path / "blobs" / layer["digest"].replace(":", "/")))
        assert (info["zfile"]["algorithm"], info["zfile"]["block_size"]) == ("zstd", 65536)
        assert info["lsmt"]["trailer"]["virtual_size"] == 3 << 30


def test_images_of_one_base_share_its_blob(tmp_path: Path, layout: Layout) -> None:
    bottom = base()
    bottom.raw()
    for name, top in (("a", changes(1)), ("b", changes(2))):
        convert(tmp_path, layout.tag(layout.image([bottom, top]), name), f"oci:{tmp_path}/out:{name}")
    out = Layout(tmp_path / "out")
    (base_a, top_a), (base_b, top_b) = (opened(out, name)["layers"] for name in ("a", "b"))
    assert base_a == base_b and top_a != top_b


@pytest.mark.parametrize("turbo", [False, True])
@pytest.mark.parametrize("given", [0, 4 * MIB])
def test_a_device_that_is_too_small_grows_unless_its_size_was_given(
    tmp_path: Path, layout: Layout, given: int, turbo: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Layer("").add("large", data=random.Random(1).randbytes(9 * MIB))
    source = layout.tag(layout.image([base(), large, changes(1), changes(2)]), "v1")
    monkeypatch.setattr(build, "first_vsize", lambda plan: 4 * MIB)
    service, word = Service(), f"oci:{tmp_path}/out:v1"
    options = Options(vsize_bytes=given, turbo=turbo, work=str(tmp_path / "work"))
    with open_source(source, service) as origin, open_destination(word, service) as destination:
        target = Target(destination, word, service.registry())
        if given:
            with pytest.raises(ObdError, match=r"no-space: .*does not fit into 4 MiB"):
                run_conversion(origin, target, options, Silent())
            return
        result = run_conversion(origin, target, options, Silent())
    assert result.images[0].vsize_bytes == 16 * MIB
    if not turbo:
        assert_clean(flat(Layout(tmp_path / "out"), opened(Layout(tmp_path / "out"), "v1"), tmp_path / "img"))


HOSTILE = {
    "not an archive": (b"x" * 5000, "checksum"),
    "cut short": (base().raw()[:7000], "ends"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_layer_leaves_no_image(tmp_path: Path, layout: Layout, name: str) -> None:
    data, words = HOSTILE[name]
    bad = Layer("")
    bad.raw = lambda: data  # type: ignore[method-assign]
    image = layout.image([base(), bad, changes(1)])
    done = run("obd", "convert", "--work", tmp_path / "w", layout.tag(image, "v1"), f"oci:{tmp_path}/out:v1")
    digest = layout.read(image)["layers"][1]["digest"]
    assert (done.status, done.out, len(done.lines)) == (255, "", 1)
    assert f"layer 1 {digest}: " in done.err and words in done.err
    assert json.loads((tmp_path / "out/index.json").read_text())["manifests"] == []
    assert list((tmp_path / "w/runs").iterdir()) == []


def test_a_pipe_in_a_layout_keeps_nobody_waiting(tmp_path: Path, layout: Layout) -> None:
    image = layout.image([base()])
    path = layout.path / "blobs" / layout.read(image)["layers"][0]["digest"].replace(":", "/")
    path.unlink()
    os.mkfifo(path)
    done = run("obd", "convert", "--work", tmp_path / "w", layout.tag(image, "v1"), f"oci:{tmp_path}/out:v1")
    assert done.status == 255 and "not a regular file" in done.err


def test_layers_that_are_not_what_they_are_named(tmp_path: Path, layout: Layout) -> None:
    image = layout.image([base(), changes(1)])
    layer = layout.read(image)["layers"][0]["digest"]
    other = changes(2).raw()
    (layout.path / "blobs" / layer.replace(":", "/")).write_bytes(other)
    done = run("obd", "convert", "--work", tmp_path / "w", layout.tag(image, "v1"), f"oci:{tmp_path}/out:v1")
    assert (done.status, len(done.lines)) == (255, 1)
    assert done.err.startswith("obd: corrupt: layer 0 ") or "corrupt" in done.err
    document = layout.read(image)
    config = layout.read(document["config"])
    config["rootfs"]["diff_ids"][1] = sha256(b"another")
    again = layout.image([base(), changes(1)])
    manifest = layout.read(again)
    manifest["config"] = layout.blob(json.dumps(config).encode(), manifest["config"]["mediaType"])
    wrong = layout.blob(json.dumps(manifest).encode(), again["mediaType"])
    done = run("obd", "convert", "--work", tmp_path / "w", layout.tag(wrong, "v2"), f"oci:{tmp_path}/out:v2")
    assert (done.status, len(done.lines)) == (255, 1)
    assert "sha256 checksum mismatch" in done.err and "layer " in done.err
