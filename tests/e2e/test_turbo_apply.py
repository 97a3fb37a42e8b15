"""Layers that stay as they are, by turboOCI-apply and overlaybd-apply, show the tree that they mean."""

import gzip
import io
import json
import os
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

import obd
import obdcore
from obd.caches import open_caches
from obd.turbo.pack import annotate, pack
from obd.turbo_meta import unpack
from tests.e2e.commands import golden, ok, run, sha256
from tests.e2e.test_apply import meant
from tests.e2e.trees import Tree, assert_clean, assert_same, listing, mounted, needs_loop, tree


class Layers:
    """Layers of turboOCI on one another, in directories of `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.lowers: list[dict[str, Any]] = []

    def begin(self, target: Path) -> tuple[Path, dict[str, str], Path]:
        """Directory, upper and configuration of the next layer, whose target is not there yet."""
        home = self.home / str(len(self.lowers))
        home.mkdir(parents=True)
        (home / "nothing").touch()
        upper = {name: str(home / name) for name in ("data", "index")}
        vsize = "0" if self.lowers else "1"
        ok("overlaybd-create", upper["data"], upper["index"], vsize, "-s", "--turboOCI")
        config = home / "config.json"
        upper["target"] = str(home / "nothing")
        config.write_text(json.dumps({"lowers": self.lowers, "upper": upper}))
        return home, upper, config

    def end(self, target: Path, home: Path, upper: dict[str, str], **more: str) -> Path:
        """Commits it, and makes it a lower of the next."""
        meta = home / "ext4.fs.meta"
        ok("overlaybd-commit", upper["data"], upper["index"], meta, "-z", "--turboOCI")
        index = home / "gzip.meta"
        lower = {"file": str(meta), "targetFile": str(target)}
        self.lowers.append(lower | ({"gzipIndex": str(index)} if index.exists() else {}))
        return meta

    def add(self, target: Path, *words: str) -> Path:
        """Adds the layer that the tar `target` is; returns its metadata."""
        home, upper, config = self.begin(target)
        mkfs = [] if self.lowers else ["--mkfs"]
        done = ok("turboOCI-apply", target, config, "--gz_index_path", str(home / "gzip.meta"), *mkfs, *words)
        assert (done.out, done.err) == ("turboOCI-apply done\n", "")
        return self.end(target, home, upper)

    def flat(self) -> Path:
        """The device as a raw image, whose file system is in order."""
        config, image = self.home / "image.json", self.home / "flat.img"
        config.write_text(json.dumps({"lowers": self.lowers, "upper": {}}))
        ok("obd", "export", config, image)
        assert_clean(image)
        return image

    def tree(self) -> Tree:
        """What it shows."""
        with mounted(self.flat()) as root:
            return tree(root)


def plain(directory: Path, name: str) -> Path:
    """The tar of a golden vector, uncompressed."""
    path = directory / f"{name}.tar"
    path.write_bytes(golden(f"apply/tars/{name}.tar"))
    return path


def stored(directory: Path, name: str) -> Path:
    """A file of the golden vectors of turboOCI."""
    path = directory / name
    path.write_bytes(golden(f"turbo/{name}"))
    return path


@needs_loop
@pytest.mark.parametrize("name", ["basic", "xattr", "sparse-pax10", "names-pax"])
def test_trees_of_plain_tars(tmp_path: Path, name: str) -> None:
    layers = Layers(tmp_path / "layers")
    layers.add(plain(tmp_path, name))
    assert_same(layers.tree(), meant(name))


@needs_loop
def test_trees_of_gzip_tars_one_on_another(tmp_path: Path) -> None:
    layers = Layers(tmp_path / "layers")
    layers.add(plain(tmp_path, "lower"))
    layers.add(stored(tmp_path, "upper.tar.gz"))
    assert_same(layers.tree(), meant("upper"))

    layers = Layers(tmp_path / "more")
    meta = layers.add(stored(tmp_path, "turbo.tar.gz"))
    assert meta.stat().st_size < 20_000
    wanted = listing(golden("turbo/gz.ext4.listing.jsonl").decode())
    assert_same(layers.tree(), wanted)


def test_headers_alone_and_the_older_command_give_the_same_metadata(tmp_path: Path) -> None:
    target = stored(tmp_path, "turbo.tar.gz")
    whole = Layers(tmp_path / "whole").add(target)
    index = (whole.parent / "gzip.meta").read_bytes()

    headers = tmp_path / "layer.metadata"
    done = ok("turboOCI-apply", "--export", target, "--gz_index_path", str(tmp_path / "index"), headers)
    assert (done.out, done.err) == ("", "")
    assert headers.read_bytes() == golden("turbo/gz.tarmeta")
    assert (tmp_path / "index").read_bytes() == index
    imported = Layers(tmp_path / "imported")
    home, upper, config = imported.begin(target)
    ok("turboOCI-apply", headers, config, "--import", "--mkfs", "--fstype", "ext4")
    assert imported.end(target, home, upper).read_bytes() == whole.read_bytes()

    older = Layers(tmp_path / "older")
    home, upper, config = older.begin(target)
    done = ok("overlaybd-apply", "--mkfs", "--gz_index_path", str(home / "gzip.meta"), target, config)
    assert done.out == "overlaybd-apply done\n"
    assert older.end(target, home, upper).read_bytes() == whole.read_bytes()
    assert (home / "gzip.meta").read_bytes() == index


def test_headers_of_a_plain_tar_are_upstreams(tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    ok("turboOCI-apply", plain(tmp_path, "basic"), headers, "--export")
    assert headers.read_bytes() == golden("turbo/plain.tarmeta")
    assert not (tmp_path / "gzip.meta").exists()


def words(seed: int, length: int) -> bytes:
    """Text that compresses as text does."""
    chance = random.Random(seed)
    vocabulary = [chance.randbytes(5).hex()[: chance.randrange(2, 10)] for _ in range(2000)]
    return " ".join(chance.choices(vocabulary, k=length // 6)).encode()


def test_metadata_of_a_layer_like_others_is_small_and_packed_the_same_each_time(tmp_path: Path) -> None:
    target = tmp_path / "layer.tar.gz"
    chance = random.Random(7)
    contents = {}
    with tarfile.open(target, "w:gz", compresslevel=6) as tar:
        for number in range(300):
            name = f"usr/lib/d{number % 20}/file-{number}"
            contents[name] = words(number, chance.randrange(1000, 60_000))
            member = tarfile.TarInfo(name)
            member.size = len(contents[name])
            tar.addfile(member, io.BytesIO(contents[name]))
    layers = Layers(tmp_path / "layers")
    meta = layers.add(target)
    index = str(meta.parent / "gzip.meta")
    packed = [pack({"ext4": str(meta)}, index, str(tmp_path / name)) for name in ("a", "b")]
    assert packed[0] == packed[1]
    assert packed[0].size == (tmp_path / "a").stat().st_size <= target.stat().st_size * 0.05
    data = (tmp_path / "a").read_bytes()
    assert packed[0].digest == f"sha256:{sha256(data)}"
    assert packed[0].diff_id == f"sha256:{sha256(gzip.decompress(data))}"
    with tarfile.open(tmp_path / "a") as tar:
        assert tar.getnames() == ["ext4.fs.meta", ".turbo.ociv1", "gzip.meta"]
        assert {(member.mtime, member.uid, member.mode) for member in tar} == {(0, 0, 0o644)}
    told = annotate(packed[0], "sha256:" + "0" * 64, "application/vnd.oci.image.layer.v1.tar+gzip")
    assert told["containerd.io/snapshot/overlaybd/version"] == "0.1.0-turbo.ociv1"
    assert told["containerd.io/snapshot/overlaybd/blob-size"] == str(packed[0].size)
    # What is unpacked reads as the layer does.
    out = tmp_path / "unpacked"
    out.mkdir()
    with (tmp_path / "a").open("rb") as stream:
        unpack(stream, str(out), "test")
    lower = obdcore.TurboLayer(str(out / "ext4.fs.meta"), str(target), str(out / "gzip.meta"))
    files = obdcore.FileSystem(obdcore.Image([lower]))
    for name in chance.sample(sorted(contents), 60):
        assert files.read(name.encode(), 0, 1 << 20) == contents[name], name


def test_a_layer_in_a_zfile(tmp_path: Path) -> None:
    tar, packed = plain(tmp_path, "basic"), tmp_path / "basic.zfile"
    ok("overlaybd-zfile", tar, packed)
    first = Layers(tmp_path / "plain").add(tar)
    assert Layers(tmp_path / "zfile").add(packed).read_bytes() == first.read_bytes()


def test_what_cannot_be_read_from_the_middle_is_refused(tmp_path: Path) -> None:
    layers = Layers(tmp_path / "layers")
    tar = plain(tmp_path, "basic").read_bytes()
    for name, data, said in [
        ("two", gzip.compress(tar[:1024]) + gzip.compress(tar[1024:]), "more than one gzip member"),
        ("zstd", zstandard.compress(tar), "convert it wholly"),
        ("cut", gzip.compress(tar)[:-500], "the gzip file is cut off"),
    ]:
        target = tmp_path / name
        target.write_bytes(data)
        _, _, config = layers.begin(target)
        index = config.parent / "gzip.meta"
        done = run("turboOCI-apply", target, config, "--mkfs", "--gz_index_path", str(index))
        assert (done.status, done.out, len(done.lines)) == (255, "", 1)
        assert done.err.startswith("failed to extract: ")
        assert said in done.err
        assert not index.exists()
        layers = Layers(tmp_path / f"after-{name}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["config"], "failed to extract: invalid: the image has no writable layer of turboOCI on top"),
        (["missing"], "failed to create image file: "),
        ([], "failed to parse image config: no image configuration is given"),
        (["--export"], "failed to parse image config: no output file is given"),
        (["config", "--fstype", "xfs"], "failed to extract: --fstype: neither ext4 nor erofs: xfs"),
        (["out", "--export", "--import"], "failed to extract: --export and --import exclude each other"),
    ],
)
def test_what_is_asked_wrongly(tmp_path: Path, arguments: list[str], said: str) -> None:
    pair = {"data": str(tmp_path / "data"), "index": str(tmp_path / "index")}
    ok("overlaybd-create", pair["data"], pair["index"], "1", "--mkfs")
    (tmp_path / "config").write_text(json.dumps({"lowers": [], "upper": pair}))
    before = os.stat(pair["data"]).st_size
    words = [str(tmp_path / word) if word in ("config", "missing", "out") else word for word in arguments]
    done = run("turboOCI-apply", plain(tmp_path, "basic"), *words)
    assert (done.status, done.out, len(done.lines)) == (255, "", 1)
    assert done.err.startswith(said)
    assert os.stat(pair["data"]).st_size == before


def test_what_was_unpacked_is_kept_for_this_index_alone(tmp_path: Path) -> None:
    target = stored(tmp_path, "turbo.tar.gz")
    digest = f"sha256:{sha256(target.read_bytes())}"
    layers = Layers(tmp_path / "layers")
    layers.add(target)
    lower = layers.lowers[0] | {"targetDigest": digest}
    kept = tmp_path / "kept"
    service = tmp_path / "overlaybd.json"
    settings = {"enable": True, "cacheDir": str(kept), "cacheSizeGB": 1, "refillSize": 65536}
    service.write_text(json.dumps({"gzipCacheConfig": settings}))
    config = tmp_path / "image.json"

    def read() -> bytes:
        config.write_text(json.dumps({"lowers": [lower], "upper": {}}))
        with obd.open(str(config), service=str(service)) as device:
            return obdcore.FileSystem(device.native).read(b"t/f8", 500_000, 1000)

    first = read()
    with tarfile.open(target) as tar:
        content = tar.extractfile("t/f8")
        assert content is not None
        assert first == content.read()[500_000:501_000]
    cache, _ = open_caches()[os.path.realpath(kept)]
    # Of the rest of the target nothing was unpacked.
    assert 0 < cache.stats()["fetched_bytes"] <= 2 * 65536
    assert read() == first
    assert cache.stats()["fetches"] == 1
    cache.flush()
    media = [path for path in kept.iterdir() if path.suffix != ".map"]
    assert len(media) == 1
    assert media[0].name != digest
    assert media[0].stat().st_blocks > 0

    # Somebody else's index, which says that the same file is something else.
    index = tmp_path / "other.meta"
    other = Path(lower["gzipIndex"]).read_bytes()
    with target.open("rb") as source, index.open("wb") as output:
        obdcore.gzip_index(source.fileno(), output.fileno(), span=65536)
    assert index.read_bytes() != other
    lower["gzipIndex"] = str(index)
    assert read() == first
    assert len([path for path in kept.iterdir() if path.suffix != ".map"]) == 2


def test_erofs_of_two_layers(tmp_path: Path) -> None:
    layers = Layers(tmp_path / "layers")
    targets = [stored(tmp_path, "turbo.tar.gz"), plain(tmp_path, "basic")]
    for target in targets:
        layers.add(target, "--fstype", "erofs")
    config = tmp_path / "image.json"
    config.write_text(json.dumps({"lowers": layers.lowers, "upper": {}}))
    with obd.open(str(config)) as device:
        files = obdcore.FileSystem(device.native)
        assert files.kind == "erofs"
        for target in targets:
            with tarfile.open(target) as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isreg() else None
                    if content is not None:
                        assert files.read(member.name.encode(), 0, 1 << 22) == content.read(), member.name
