"""`obd convert --turbo` and `--fs erofs`: trees are those of the layers, originals stay as they are."""

import gzip
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

import obdcore
from obd.oci.layers import PREFIX, TARGET_MEDIA_TYPE, TURBO_ARTIFACT
from obd.oci.media import DOCKER_LAYER, DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from obd.snapshotter.image import turbo_lower
from obd.turbo_meta import unpack
from tests.e2e.commands import ok, run
from tests.e2e.oci_images import Layer, Layout, compressed, sha256
from tests.e2e.test_obd_convert import base, changes
from tests.e2e.trees import Tree, assert_clean, assert_same, mounted, needs_loop, tree


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "source")


def convert(home: Path, source: str, target: str, *words: str, work: str = "work") -> dict[str, Any]:
    """What the command says of its work, which must succeed."""
    done = ok("obd", "convert", "--json", "--work", home / work, source, target, "--vsize", "1", *words)
    return dict(json.loads(done.out))


def blob(layout: Layout, digest: str) -> Path:
    """The file of a blob."""
    return layout.path / "blobs" / digest.replace(":", "/")


def lower(layout: Layout, layer: dict[str, Any], home: Path) -> str | obdcore.TurboLayer:
    """A layer of a converted image, as images are opened with it."""
    target = layer["annotations"].get(f"{PREFIX}turbo-oci/target-digest")
    if target is None:
        return str(blob(layout, layer["digest"]))
    home.mkdir()
    with blob(layout, layer["digest"]).open("rb") as stream:
        unpack(stream, str(home), "test")
    (meta,) = home.glob("*.fs.meta")
    index = home / "gzip.meta"
    return obdcore.TurboLayer(str(meta), str(blob(layout, target)), str(index) if index.exists() else None)


def flat(lowers: list[str | obdcore.TurboLayer], image: Path) -> Path:
    """The device that layers make, as a raw file."""
    device = obdcore.Image(lowers)
    with image.open("xb") as file:
        file.truncate(device.size)
        at = 0
        for length, kind in device.extents(0, device.size):
            if kind == "data":
                file.seek(at)
                file.write(device.read_at(at, length))
            at += length
    device.close()
    return image


def unpacked(source: str, home: Path) -> Tree:
    """What the layers mean."""
    command = ["umoci", "unpack", "--image", source.removeprefix("oci:"), str(home)]
    subprocess.run(command, check=True, capture_output=True)
    return tree(home / "rootfs")


@needs_loop
def test_turbo(tmp_path: Path, layout: Layout) -> None:
    original = layout.image([base(), changes(1), changes(2, "")])
    source = layout.tag(original, "v1")
    found = convert(tmp_path, source, f"oci:{tmp_path}/out:v1", "--turbo", "--referrer")
    out = Layout(tmp_path / "out")
    manifest = out.read(out.tagged("v1"))
    assert manifest["artifactType"] == TURBO_ARTIFACT
    diff_ids = out.read(manifest["config"])["rootfs"]["diff_ids"]
    lowers = []
    for number, layer in enumerate(manifest["layers"]):
        target = layout.read(original)["layers"][number]
        assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
        assert layer["annotations"] == {
            f"{PREFIX}version": "0.1.0-turbo.ociv1",
            f"{PREFIX}blob-digest": layer["digest"],
            f"{PREFIX}blob-size": str(layer["size"]),
            f"{PREFIX}turbo-oci/target-digest": target["digest"],
            f"{PREFIX}turbo-oci/target-media-type": target["mediaType"],
        }
        assert sha256(gzip.decompress(out.bytes(layer["digest"]))) == diff_ids[number]
        assert out.bytes(target["digest"]) == layout.bytes(target["digest"])
        lowers.append(lower(out, layer, tmp_path / f"{number}"))
        assert_clean(flat(lowers, tmp_path / f"{number}.img"))
    with mounted(tmp_path / "2.img") as root:
        assert_same(tree(root), unpacked(source, tmp_path / "unpacked"))
    again = convert(tmp_path, source, f"oci:{tmp_path}/out:v1", "--turbo", "--referrer")
    assert again["unchanged"] and again["digest"] == found["digest"]
    fresh = convert(tmp_path, source, f"oci:{tmp_path}/fresh:v1", "--turbo", "--referrer", work="fresh-work")
    assert fresh["digest"] == found["digest"]


@needs_loop
def test_turbo_on_a_base_that_was_converted(tmp_path: Path, layout: Layout) -> None:
    bottom = base()
    bottom.raw()
    convert(tmp_path, layout.tag(layout.image([bottom]), "v1"), f"oci:{tmp_path}/out:v1", "--turbo")
    source = layout.tag(layout.image([bottom, changes(2)]), "v2")
    found = convert(tmp_path, source, f"oci:{tmp_path}/out:v2", "--turbo")
    assert [layer["how"] for layer in found["images"][0]["layers"]] == ["reused", "built"]
    out = Layout(tmp_path / "out")
    layers = out.read(out.tagged("v2"))["layers"]
    lowers = [lower(out, layer, tmp_path / str(number)) for number, layer in enumerate(layers)]
    assert_clean(flat(lowers, tmp_path / "img"))
    with mounted(tmp_path / "img") as root:
        assert_same(tree(root), unpacked(source, tmp_path / "unpacked"))


@needs_loop
@pytest.mark.parametrize("fs", ["ext4", "erofs"])
def test_turbo_where_it_cannot_be(tmp_path: Path, layout: Layout, fs: str) -> None:
    """Layers in zstd, or in gzip of several members, become native ones between the others."""
    members = Layer()
    raw = base().raw()
    half = len(raw) // 1024 * 512
    stored = compressed(raw[:half], "gzip") + compressed(raw[half:], "gzip")
    members.raw = lambda: raw  # type: ignore[method-assign]
    image = layout.image([members, changes(1), changes(2, "zstd"), changes(3)])
    document = layout.read(image)
    document["layers"][0] = layout.blob(stored, document["layers"][0]["mediaType"])
    source = layout.tag(layout.blob(json.dumps(document).encode(), image["mediaType"]), "v1")
    convert(tmp_path, source, f"oci:{tmp_path}/out:v1", "--turbo", "--fs", fs)
    out = Layout(tmp_path / "out")
    layers = out.read(out.tagged("v1"))["layers"]
    versions = [layer["annotations"][f"{PREFIX}version"] for layer in layers]
    assert versions == ["0.1.0", "0.1.0-turbo.ociv1", "0.1.0", "0.1.0-turbo.ociv1"]
    lowers = [lower(out, layer, tmp_path / str(number)) for number, layer in enumerate(layers)]
    device = obdcore.Image(lowers)
    files = obdcore.FileSystem(device)
    assert files.kind == fs
    new3 = Path("new3/file")
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        kept = archive.extractfile("etc/kept")
        assert kept is not None and files.read(b"/etc/kept", 0, 1 << 20) == kept.read()
    assert len(files.read(f"/{new3}".encode(), 0, 1 << 20)) == 9000
    assert [name for name, _ in files.list(b"/opaque") if not name.startswith(b".")] == [b"above"]


@pytest.mark.parametrize(
    ("stored", "called", "named"),
    [
        ("gzip", DOCKER_LAYER, OCI_LAYER_GZIP),
        ("", DOCKER_LAYER_GZIP, OCI_LAYER),
        ("", OCI_LAYER_ZSTD, OCI_LAYER),
        ("gzip", DOCKER_LAYER_GZIP, DOCKER_LAYER_GZIP),
    ],
    ids=["a gzip called tar", "a tar called gzip", "a tar called zstd", "a gzip"],
)
def test_turbo_goes_by_what_a_layer_is(
    tmp_path: Path, layout: Layout, stored: str, called: str, named: str
) -> None:
    bottom = base()
    image = layout.image([bottom])
    document = layout.read(image)
    document["layers"] = [layout.blob(compressed(bottom.raw(), stored), called)]
    source = layout.tag(layout.blob(json.dumps(document).encode(), image["mediaType"]), "v1")
    found = convert(tmp_path, source, f"oci:{tmp_path}/out:v1", "--turbo")
    out = Layout(tmp_path / "out")
    (layer,) = out.read(out.tagged("v1"))["layers"]
    assert layer["annotations"][TARGET_MEDIA_TYPE] == named
    home = tmp_path / "home"
    home.mkdir()
    with blob(out, layer["digest"]).open("rb") as stream:
        unpack(stream, str(home), "test")
    made = turbo_lower(layer["annotations"], str(home), ("ext4",))
    original = str(blob(out, made["targetDigest"]))
    device = obdcore.Image([obdcore.TurboLayer(made["file"], original, made.get("gzipIndex"))])
    assert obdcore.FileSystem(device).read(b"/bin/hard", 0, 10) == b"#!#!#!#!#!"
    # The record of the layer says so too.
    again = convert(tmp_path, source, f"oci:{tmp_path}/again:v1", "--turbo")
    assert again["digest"] == found["digest"]


def test_erofs(tmp_path: Path, layout: Layout) -> None:
    source = layout.tag(layout.image([base(), changes(1), changes(2)]), "v1")
    found = convert(tmp_path, source, f"oci:{tmp_path}/out:v1", "--fs", "erofs")
    fresh = convert(tmp_path, source, f"oci:{tmp_path}/f:v1", "--fs", "erofs", "--jobs", "1", work="w2")
    assert fresh["digest"] == found["digest"]
    out = Layout(tmp_path / "out")
    layers = out.read(out.tagged("v1"))["layers"]
    assert {layer["annotations"][f"{PREFIX}blob-fs-type"] for layer in layers} == {"erofs"}
    image = flat([str(blob(out, layer["digest"])) for layer in layers], tmp_path / "flat.img")
    checked = subprocess.run(["fsck.erofs", "--extract", image], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    files = obdcore.FileSystem(obdcore.Image([str(blob(out, layer["digest"])) for layer in layers]))
    assert files.kind == "erofs" and files.read(b"/bin/hard", 0, 10) == b"#!#!#!#!#!"
    done = run("obd", "verify", blob(out, layers[0]["digest"]))
    assert done.status == 0
