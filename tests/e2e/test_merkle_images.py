"""Images with hash trees from place to place: made, copied, extended, pulled, and read with `required`."""

import json
import random
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from obd.oci import open_source
from obd.oci.manifest import Manifest, parse_manifest
from obd.oci.trees import MEDIA_TYPE, tree_of
from obd.service import Service
from tests.e2e.commands import ok, run
from tests.e2e.oci_images import Layer, Layout
from tests.e2e.servers import Registry
from tests.ref.merkle_ref import leaves_of, root_of

CONTENT = random.Random(6).randbytes(150_000).hex()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> str:
    """A converted image with trees."""
    home = tmp_path_factory.mktemp("image")
    layout = Layout(home / "layout")
    first = Layer().add("etc", tarfile.DIRTYPE).add("etc/random", data=CONTENT.encode())
    source = layout.tag(layout.image([first, Layer().add("etc/second", data=b"two")]), "x")
    name = f"{registry.host}/trees/app:v1"
    ok("obd", "convert", "--merkle", "--vsize", "1", "--work", home / "work", source, name)
    return name


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A service configuration that takes nothing without a tree."""
    path = tmp_path / "overlaybd.json"
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache")}
    path.write_text(json.dumps({"cacheConfig": cache, "verifyChunks": "required"}))
    return path


def manifest_of(name: str) -> Manifest:
    with open_source(name, Service(None)) as source:
        manifest = parse_manifest(source.root()[1])
    assert isinstance(manifest, Manifest)
    return manifest


def check(name: str) -> None:
    """Every layer has the right tree with its leaves beside it, and a referrer of the image keeps them."""
    with open_source(name, Service(None)) as source:
        root, data = source.root()
        manifest = parse_manifest(data)
        assert isinstance(manifest, Manifest)
        for layer in manifest.layers:
            tree = tree_of(layer)
            assert tree is not None
            with source.blob(layer) as stream:
                content = stream.read()
            with source.blob(tree.leaves) as stream:
                assert stream.read() == leaves_of(content)
            assert tree.root == f"sha256:{root_of(content)}"
        (referrer,) = source.referrers(root, MEDIA_TYPE)
        kept = parse_manifest(source.manifest(referrer))
        assert isinstance(kept, Manifest)
        wanted = {tree.leaves.digest for layer in manifest.layers if (tree := tree_of(layer))}
        assert {each.digest for each in kept.layers} == wanted


def test_a_conversion_makes_them_and_knows_them_again(image: str, tmp_path: Path) -> None:
    check(image)
    about = json.loads(ok("obd", "inspect", "--json", image).out)["image"]
    assert all(layer["tree"].startswith("sha256:") for layer in about["layers"])
    assert ok("obd", "inspect", image).out.count("hash tree") == 2
    # Without the word it is another image, of the same layers.
    source = manifest_of(image)
    assert "merkle" in source.annotations["overlaybd.convert.parameters"].split()


def test_layers_that_were_converted_before_get_them_too(registry: Registry, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    source = layout.tag(layout.image([Layer().add("a", data=CONTENT.encode())]), "x")
    name, words = f"{registry.host}/trees/later:v1", ["--vsize", "1", "--work", str(tmp_path / "work")]
    ok("obd", "convert", *words, source, name)
    assert tree_of(manifest_of(name).layers[0]) is None
    again = json.loads(ok("obd", "convert", "--json", "--merkle", *words, source, name).out)
    assert again["images"][0]["layers"][0]["how"] == "reused" and not again["unchanged"]
    check(name)
    assert json.loads(ok("obd", "convert", "--json", "--merkle", *words, source, name).out)["unchanged"]


def test_they_are_read_with(image: str, service: Path) -> None:
    assert ok("obd", "cat", "--service", service, f"{image}:/etc/random").out == CONTENT


def test_an_image_without_them_is_refused(registry: Registry, tmp_path: Path, service: Path) -> None:
    layout = Layout(tmp_path / "layout")
    source = layout.tag(layout.image([Layer().add("a", data=b"a")]), "x")
    name = f"{registry.host}/trees/bare:v1"
    ok("obd", "convert", "--vsize", "1", "--work", tmp_path / "work", source, name)
    done = run("obd", "cat", "--service", service, f"{name}:/a")
    assert done.status != 0 and "verifyChunks is required" in done.err


def test_a_copy_takes_them_along(image: str, registry: Registry, tmp_path: Path, service: Path) -> None:
    layout = f"oci:{tmp_path / 'copy'}:v1"
    ok("obd", "copy", image, layout)
    check(layout)
    there = f"{registry.host}/elsewhere/app:v2"
    ok("obd", "copy", layout, there)
    check(there)
    assert ok("obd", "cat", "--service", service, f"{there}:/etc/second").out == "two"


def test_a_copy_of_what_others_copied_without_them(image: str, registry: Registry, tmp_path: Path) -> None:
    ok("obd", "copy", image, f"oci:{tmp_path / 'copy'}:v1")
    manifest = manifest_of(image)
    for layer in manifest.layers:
        tree = tree_of(layer)
        assert tree is not None
        (tmp_path / "copy" / "blobs" / tree.leaves.digest.replace(":", "/")).unlink()
    there = f"{registry.host}/lost/app:v1"
    ok("obd", "copy", f"oci:{tmp_path / 'copy'}:v1", there)
    assert manifest_of(there) == manifest
    shutil.rmtree(tmp_path / "copy")


def test_a_pull_writes_them_into_the_configuration(image: str, tmp_path: Path, service: Path) -> None:
    path = tmp_path / "config.json"
    ok("obd", "pull", "--service", service, image, "--config", path)
    found: dict[str, Any] = json.loads(path.read_text())
    assert all(set(lower["merkle"]) == {"root", "leaves", "size"} for lower in found["lowers"])
    assert ok("obd", "cat", "--service", service, f"{path}:/etc/random").out == CONTENT


def test_a_commit_keeps_those_of_the_base_and_makes_one(
    image: str, registry: Registry, tmp_path: Path, service: Path
) -> None:
    data, index = tmp_path / "data", tmp_path / "index"
    ok("overlaybd-create", data, index, "0")
    config = tmp_path / "config.json"
    lowers = [{"digest": layer.digest, "size": layer.size} for layer in manifest_of(image).layers]
    upper = {"data": str(data), "index": str(index)}
    blobs = f"{registry.repository('trees/app')}/blobs"
    config.write_text(json.dumps({"repoBlobUrl": blobs, "lowers": lowers, "upper": upper}))
    target = f"{registry.host}/committed/app:v1"
    written = tmp_path / "written.json"
    ok("obd", "commit", "--base", image, "--write-config", written, config, target)
    check(target)
    assert len(manifest_of(target).layers) == 3
    assert ok("obd", "cat", "--service", service, f"{written}:/etc/second").out == "two"
