"""Documents of images: each value read or refused in its place, and what is written, byte by byte."""

import io
import json
import math
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from obd.errors import ObdError
from obd.oci import Descriptor, Index, Manifest, Platform, fields, limits, media, parse_manifest
from obd.oci.digest import digest_of
from obd.oci.layers import is_foreign, layer_kind, target_of
from obd.oci.name import Local, parse_name
from obd.oci.platform import own_platform
from obd.oci.tar import Tar
from obd.oci.trees import LayerTree, add_tree, carry_trees, make_tree, put_referrer, tree_by_labels, tree_of
from tests.unit.test_oci_archives import link, tar
from tests.unit.test_oci_copy import Memory
from tests.unit.test_oci_places import refused

DIGEST = "sha256:" + "5" * 64
CONFIG = {"mediaType": media.OCI_CONFIG, "digest": DIGEST, "size": 3}
LAYER = {"mediaType": media.OCI_LAYER, "digest": DIGEST, "size": 7}
IMAGE: dict[str, Any] = {"schemaVersion": 2, "config": CONFIG, "layers": [LAYER]}
INDEX: dict[str, Any] = {"schemaVersion": 2, "manifests": [LAYER]}
PREFIX = "containerd.io/snapshot/overlaybd/"


def parsed(document: object, media_type: str = "") -> Manifest | Index:
    return parse_manifest(json.dumps(document).encode(), media_type, "place")


# ---- values


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"layers": [LAYER, 5]}, "layers[1] is no object: 5"),
        ({"layers": None}, "manifest has no list of layers"),
        ({"config": None}, "config is no object: None"),
        ({"config": {**CONFIG, "digest": "sha256:5"}}, "config.digest is no digest: 'sha256:5'"),
        ({"layers": [{**LAYER, "size": -1}]}, "layers[0].size is no number of bytes: -1"),
        ({"layers": [{**LAYER, "size": True}]}, "layers[0].size is no number of bytes: True"),
        ({"layers": [{**LAYER, "size": 1.0}]}, "layers[0].size is no number of bytes: 1.0"),
        (
            {"layers": [{**LAYER, "size": (1 << 50) + 1}]},
            f"layers[0].size is no number of bytes: {(1 << 50) + 1}",
        ),
        ({"layers": [{**LAYER, "mediaType": 5}]}, "layers[0].mediaType is no text: 5"),
        ({"layers": [{**LAYER, "artifactType": 5}]}, "layers[0].artifactType is no text: 5"),
        ({"layers": [{**LAYER, "annotations": [1]}]}, "layers[0].annotations is no object of texts: [1]"),
        (
            {"layers": [{**LAYER, "annotations": {"a": 1}}]},
            "layers[0].annotations is no object of texts: {'a': 1}",
        ),
        ({"layers": [{**LAYER, "platform": 5}]}, "layers[0].platform is no object: 5"),
        ({"layers": [{**LAYER, "platform": {"os": 5}}]}, "layers[0].platform.os is no text: 5"),
        ({"subject": 5}, "subject is no object: 5"),
        ({"annotations": 5}, "manifest.annotations is no object of texts: 5"),
        ({"artifactType": 5}, "manifest.artifactType is no text: 5"),
        ({"mediaType": 5}, "manifest.mediaType is no text: 5"),
        ({"schemaVersion": 3}, "not a manifest: its schemaVersion is 3"),
        ({"schemaVersion": True}, "not a manifest: its schemaVersion is None"),
        ({"manifests": []}, "both a manifest and an index"),
        ({"mediaType": media.OCI_INDEX}, f"a manifest of another type than {media.OCI_INDEX}"),
        ({"artifactType": "x" * 65537}, f"manifest.artifactType is no text: '{'x' * 79}…"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(change: dict[str, Any], what: str) -> None:
    with refused("corrupt", what, "place"):
        parsed({**IMAGE, **change})


def test_what_lies_on_the_bounds_is_good() -> None:
    found = parsed(
        {**IMAGE, "artifactType": "x" * 65536, "layers": [{**LAYER, "size": 1 << 50}, {**LAYER, "size": 0}]}
    )
    assert isinstance(found, Manifest) and [layer.size for layer in found.layers] == [1 << 50, 0]
    for key, document, most in (("layers", IMAGE, 1024), ("manifests", INDEX, 4096)):
        good = parsed({**document, key: [LAYER] * most})
        assert len(good.layers if isinstance(good, Manifest) else good.manifests) == most
        with refused("limit", f"manifest has {most + 1} {key}, more than {most}", "place"):
            parsed({**document, key: [LAYER] * (most + 1)})


@pytest.mark.parametrize(
    ("inside", "outside", "kind"),
    [
        ("", "", media.OCI_MANIFEST),
        ("", media.DOCKER_MANIFEST, media.DOCKER_MANIFEST),
        ("", f"{media.DOCKER_MANIFEST}; charset=utf-8", media.DOCKER_MANIFEST),
        ("", "text/plain", media.OCI_MANIFEST),
        (media.DOCKER_MANIFEST, "text/plain", media.DOCKER_MANIFEST),
        (media.DOCKER_MANIFEST, media.DOCKER_MANIFEST, media.DOCKER_MANIFEST),
        (media.DOCKER_MANIFEST, media.OCI_MANIFEST, None),
        (media.OCI_MANIFEST, media.OCI_INDEX, None),
        ("", media.DOCKER_LIST, None),
    ],
)
def test_inside_and_outside_agree_on_what_it_is(inside: str, outside: str, kind: str | None) -> None:
    document = {**IMAGE, "mediaType": inside} if inside else IMAGE
    if kind:
        assert parsed(document, outside).media_type == kind
        return
    with pytest.raises(ObdError, match="a manifest of another type than"):
        parsed(document, outside)


def test_what_is_no_image_is_told_as_such() -> None:
    with refused("unsupported", "not an image: its media type is 'text/plain'", "place"):
        parsed({**IMAGE, "mediaType": "text/plain"})
    old = "a manifest of Docker's schema 1, which registries gave up in 2019"
    for kind in media.SCHEMA1:
        for document, outside in (({**IMAGE, "mediaType": kind}, ""), (IMAGE, kind)):
            with refused("unsupported", old, "place"):
                parsed(document, outside)
    with refused("unsupported", old, "place"):
        parsed({"schemaVersion": 1})


@pytest.mark.parametrize(
    ("data", "kind", "what"),
    [
        (b'{"a":1,"b":{"k":1,"k":2}}', "corrupt", "not a thing: the key 'k' twice"),
        (b'{"a":NaN}', "corrupt", "not a thing: NaN is no number"),
        (b'{"a":-Infinity}', "corrupt", "not a thing: -Infinity is no number"),
        (b'{"a":1e999}', "corrupt", "not a thing: a number beyond all bounds"),
        (b"[" * 100_000, "corrupt", "not a thing: not JSON"),
        (b"[1]", "corrupt", "not a thing: JSON, but no object"),
        (b"{" + b" " * (4 << 20), "limit", f"a thing of {(4 << 20) + 1} bytes, more than {4 << 20}"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "corrupt", "not a thing: nested more than 64 deep"),
    ],
)
def test_json_that_readers_would_differ_about_is_none(data: bytes, kind: str, what: str) -> None:
    with refused(kind, what):
        fields.parse(data, "thing")


def test_json_on_the_bounds_is_good() -> None:
    nested = b'{"a":' + b'{"b":[' * 31 + b"1" + b"]}" * 31 + b"}"
    assert fields.parse(nested, "thing").keys() == {"a"}
    assert fields.parse(b"{" + b" " * ((4 << 20) - 2) + b"}", "thing") == {}
    assert fields.parse(b'{"a":1.5e3}', "thing") == {"a": 1500.0}
    assert fields.encode({"b": [1, "\u00e9"], "a": {}}) == b'{"b":[1,"\\u00e9"],"a":{}}'
    with pytest.raises(ValueError):
        fields.encode({"a": math.nan})
    assert fields.shown("a\n") == r"'a\n'" and fields.shown("x" * 78) == f"'{'x' * 78}'"
    assert fields.shown("x" * 79) == f"'{'x' * 79}…"


def test_an_error_keeps_the_file_it_has() -> None:
    for inner, told in (("inner", "inner"), ("", "outer")):
        with refused("limit", "much", told), fields.at("outer"):
            raise ObdError("limit", "much", inner)


# ---- what is written


def test_a_manifest_is_written_in_one_form() -> None:
    full = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "artifactType": "kind",
        "config": {**CONFIG, "data": "e30=", "urls": ["u"]},
        "layers": [
            {
                "mediaType": "t",
                "artifactType": "k",
                "digest": DIGEST,
                "size": 1,
                "annotations": {"a": "1", "b": "2"},
                "platform": {"architecture": "arm64", "os": "linux", "os.version": "1", "variant": "v8"},
            }
        ],
        "x-first": 1,
        "y-second": [2],
        "subject": LAYER,
        "annotations": {"c": "3", "d": "4"},
    }
    data = json.dumps(full, separators=(",", ":")).encode()
    found = parse_manifest(data)
    assert isinstance(found, Manifest) and found.encode() == data
    assert found.descriptor() == Descriptor(media.OCI_MANIFEST, digest_of(data), len(data))
    assert found.extra == {"x-first": 1, "y-second": [2]}
    assert found.layers[0].platform == Platform("linux", "arm64", "v8", {"os.version": "1"})
    assert str(found.layers[0].platform) == "linux/arm64/v8"
    mixed = json.dumps(dict(reversed(full.items()))).encode()
    assert parse_manifest(mixed).encode() == data
    index = json.dumps(
        {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [LAYER]}, separators=(",", ":")
    )
    parsed_index = parse_manifest(index.encode())
    assert isinstance(parsed_index, Index) and parsed_index.encode() == index.encode()
    assert parsed_index.extra == {} and parsed_index.descriptor().media_type == media.OCI_INDEX
    assert parsed_index.descriptor().digest == digest_of(index.encode())


def test_each_blob_of_an_image_counts_once() -> None:
    layer, other = Descriptor("l", DIGEST, 1), Descriptor("o", "sha256:" + "6" * 64, 2)
    config = Descriptor("c", "sha256:" + "7" * 64, 3)
    assert Manifest(config, (layer, other, layer)).blobs == (layer, other, config)


# ---- platforms, names, layers


def test_a_platform_is_chosen() -> None:
    def entry(word: str, kind: str = "") -> Descriptor:
        return Descriptor("m", digest_of(f"{word}{kind}".encode()), 1, {}, Platform.parse(word), kind)

    amd, arm7, arm6, wanted = (
        entry("linux/amd64"),
        entry("linux/arm/v7"),
        entry("linux/arm/v6"),
        Platform.parse,
    )
    index = Index((entry("unknown/unknown"), amd, arm6, arm7, entry("linux/amd64", "overlaybd")))
    assert index.choose(wanted("linux/amd64")) is amd
    assert index.choose(wanted("linux/amd64"), "overlaybd").artifact_type == "overlaybd"
    assert index.choose(wanted("linux/amd64"), "other", "overlaybd").artifact_type == "overlaybd"
    assert index.choose(wanted("linux/amd64"), "other") is amd
    assert index.choose(wanted("linux/arm/v7")) is arm7 and index.choose(wanted("linux/arm")) is arm6
    have = "linux/amd64, linux/arm/v6, linux/arm/v7"
    with refused("not-found", f"no image for windows/amd64; there are: {have}"):
        index.choose(wanted("windows/amd64"))
    with refused("not-found", "no image for linux/s390x; there are: none"):
        Index((entry("unknown/unknown"),)).choose(wanted("linux/s390x"))
    bare = Descriptor("m", DIGEST, 1)
    assert Index((bare,)).choose(wanted("linux/s390x")) is bare
    with refused("not-found", "no image for linux/s390x; there are: none"):
        Index((bare, bare)).choose(wanted("linux/s390x"))
    assert wanted("linux/arm64").fits(wanted("linux/arm64/v8")) and wanted("linux/arm").fits(
        wanted("linux/arm/v7")
    )
    assert not wanted("linux/arm").fits(wanted("linux/arm/v6"))
    assert not wanted("linux/amd64").fits(wanted("linux/amd64/v2"))


@pytest.mark.parametrize("word", ["linux", "linux/", "/amd64", "a/b/c/d", "a/b/", ""])
def test_what_is_no_platform(word: str) -> None:
    with refused("invalid", f"{word!r} is no platform: must be OS/ARCHITECTURE[/VARIANT]"):
        Platform.parse(word)


@pytest.mark.parametrize(
    ("machine", "architecture"),
    [
        ("x86_64", "amd64"),
        ("aarch64", "arm64"),
        ("armv7l", "arm"),
        ("i686", "386"),
        ("loongarch64", "loong64"),
        ("riscv64", "riscv64"),
    ],
)
def test_this_machine_by_the_names_of_go(
    machine: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert own_platform() == Platform("linux", architecture)
    assert own_platform().to_json() == {"architecture": architecture, "os": "linux"}


def test_a_name_says_which_kind_of_place() -> None:
    assert parse_name("oci:/a/b:v1:x") == Local("oci", "/a/b", "v1:x")
    assert parse_name("oci-archive:a.tar") == Local("oci-archive", "a.tar", "")
    assert parse_name("docker-archive:a.tar:app:v1") == Local("docker-archive", "a.tar", "app:v1")
    for word, what in (
        ("oci:", "'oci:': no path after oci:"),
        ("oci-archive::v1", "'oci-archive::v1': no path after oci-archive:"),
    ):
        with refused("invalid", what):
            parse_name(word)
    with pytest.raises(ObdError, match=r"no path after oci:"):
        parse_name("oci:a\0b")
    with pytest.raises(ObdError, match=r"^invalid: 'no name at all': must be \[docker://"):
        parse_name("no name at all")
    reference = parse_name("registry.example/team/app:v1")
    assert not isinstance(reference, Local) and reference.url == "https://registry.example/v2/team/app"


@pytest.mark.parametrize(
    ("media_type", "annotations", "kind"),
    [
        (media.OCI_LAYER, {}, "tar"),
        (media.OCI_LAYER_GZIP, {}, "gzip"),
        (media.OCI_LAYER_ZSTD, {}, "zstd"),
        (media.DOCKER_LAYER, {}, "tar"),
        (media.DOCKER_LAYER_GZIP, {}, "gzip"),
        (media.DOCKER_LAYER_ZSTD, {}, "zstd"),
        ("application/vnd.example.start", {}, "unknown"),
        ("tar/other+gzip", {}, "unknown"),
        (media.OCI_LAYER, {f"{PREFIX}blob-digest": DIGEST}, "overlaybd"),
        (media.OCI_LAYER, {f"{PREFIX}blob-digest": "sha256:" + "6" * 64}, "tar"),
        (media.OCI_LAYER, {f"{PREFIX}acceleration-layer": "yes"}, "acceleration"),
        (media.OCI_LAYER, {f"{PREFIX}acceleration-layer": "no"}, "tar"),
        (media.OCI_LAYER, {f"{PREFIX}turbo-oci/target-digest": DIGEST}, "turboOCI"),
        (media.OCI_LAYER, {f"{PREFIX}fastoci/target-digest": DIGEST}, "turboOCI"),
        (media.OCI_LAYER, {f"{PREFIX}turbo-oci/target-digest": "none"}, "tar"),
    ],
)
def test_what_a_layer_is(media_type: str, annotations: dict[str, str], kind: str) -> None:
    assert layer_kind(Descriptor(media_type, DIGEST, 1, annotations)) == kind


def test_the_target_of_a_layer() -> None:
    for name in ("turbo-oci", "fastoci"):
        said = {f"{PREFIX}{name}/target-digest": DIGEST}
        assert target_of(said) == (DIGEST, "")
        assert target_of({**said, f"{PREFIX}{name}/target-media-type": "kind"}) == (DIGEST, "kind")
    assert target_of({}) == ("", "")
    for kind in media.FOREIGN:
        assert is_foreign(Descriptor(kind, DIGEST, 1, extra={"urls": ["https://x"]}))
        assert not is_foreign(Descriptor(kind, DIGEST, 1)) and not is_foreign(
            Descriptor(kind, DIGEST, 1, extra={"urls": []})
        )
    assert not is_foreign(Descriptor(media.OCI_LAYER, DIGEST, 1, extra={"urls": ["https://x"]}))


# ---- hash trees


ROOT, LEAVES = "sha256:" + "a" * 64, "sha256:" + "b" * 64
TREE = {
    "overlaybd.merkle.root": ROOT,
    "overlaybd.merkle.leaves": LEAVES,
    "overlaybd.merkle.leaves-size": "56",
}


def test_a_layer_names_its_tree_as_it_is_told() -> None:
    tree = tree_of(Descriptor(media.OCI_LAYER, DIGEST, 1, TREE))
    assert tree == LayerTree(ROOT, Descriptor("application/vnd.overlaybd.merkle.v1", LEAVES, 56))
    labels = {
        f"{PREFIX}merkle-root": ROOT,
        f"{PREFIX}merkle-leaves": LEAVES,
        f"{PREFIX}merkle-leaves-size": "56",
    }
    assert tree is not None and tree.labels == labels and tree.annotations == TREE | labels
    assert tree_by_labels(labels) == tree and tree_by_labels(TREE) is None


@pytest.mark.parametrize(
    ("key", "value", "good"),
    [
        *[
            ("leaves-size", value, False)
            for value in ("0", "-1", "", "1.0", "\u0665", str((32 << 20) + 25), "0" * 12)
        ],
        *[("leaves-size", value, True) for value in ("1", str((32 << 20) + 24), "00000000056")],
        ("root", "sha256:a", False),
        ("leaves", "md5:" + "0" * 32, False),
    ],
)
def test_a_tree_that_makes_no_sense_is_none(key: str, value: str, good: bool) -> None:
    layer = Descriptor(media.OCI_LAYER, DIGEST, 1, {**TREE, f"overlaybd.merkle.{key}": value})
    assert (tree_of(layer) is not None) == good


class Kept(Memory):
    """A destination that keeps what it is given, and a source of it."""

    def __init__(self) -> None:
        super().__init__(Index(()))
        self.blobs: dict[str, bytes] = {}
        self.manifests: list[tuple[Descriptor, bytes, str | None]] = []

    def has_blob(self, descriptor: Descriptor) -> bool:
        return descriptor.digest in self.blobs

    def mount_blob(self, descriptor: Descriptor, source: object) -> bool:
        return False

    def put_blob(self, descriptor: Descriptor, content: Any, progress: object = None) -> None:
        data = content if isinstance(content, bytes) else content.read()
        assert digest_of(data) == descriptor.digest and len(data) == descriptor.size
        self.blobs[descriptor.digest] = data

    def put_manifest(self, descriptor: Descriptor, data: bytes, tag: str | None) -> None:
        self.manifests.append((descriptor, data, tag))

    def blob(self, descriptor: Descriptor) -> Any:
        if descriptor.digest not in self.blobs:
            raise ObdError("not-found", "there is none")
        return io.BytesIO(self.blobs[descriptor.digest])


def test_a_tree_is_made_once_and_goes_with_the_image() -> None:
    data, told = os.urandom((1 << 20) + 9), list[int]()
    made = make_tree(io.BytesIO(data), told.append)
    assert made is not None and told == [1 << 20, len(data)]
    assert make_tree(io.BytesIO(b"")) is None
    tree, leaves = made
    assert tree.leaves == Descriptor("application/vnd.overlaybd.merkle.v1", digest_of(leaves), len(leaves))
    here: Any = Kept()
    plain, stream = Descriptor.of(data, media.OCI_LAYER), io.BytesIO(data)
    layer = add_tree(here, plain, stream)
    assert stream.closed and tree_of(layer) == tree and here.blobs == {tree.leaves.digest: leaves}
    assert layer.digest == plain.digest and add_tree(here, layer, io.BytesIO(b"not read")) is layer
    empty = Descriptor.of(b"", media.OCI_LAYER)
    assert add_tree(here, empty, io.BytesIO(b"")) is empty
    image = Descriptor(media.OCI_MANIFEST, DIGEST, 99, {"not": "kept"})
    put_referrer(here, image, [plain])
    assert here.manifests == [] and len(here.blobs) == 1
    there: Any = Kept()
    assert carry_trees(here, there, image, [layer, plain, layer])
    ((descriptor, encoded, tag),) = there.manifests
    referrer = parse_manifest(encoded, descriptor.media_type)
    assert isinstance(referrer, Manifest) and tag == "" and digest_of(encoded) == descriptor.digest
    assert referrer.subject == Descriptor(media.OCI_MANIFEST, DIGEST, 99)
    assert referrer.artifact_type == "application/vnd.overlaybd.merkle.v1" and referrer.layers == (
        tree.leaves,
    )
    assert referrer.config == Descriptor.of(b"{}", "application/vnd.oci.empty.v1+json")
    assert there.blobs == {tree.leaves.digest: leaves, digest_of(b"{}"): b"{}"}
    nowhere: Any = Kept()
    assert not carry_trees(nowhere, nowhere, image, [layer]) and nowhere.manifests == []
    assert carry_trees(nowhere, nowhere, image, [plain]) and nowhere.manifests == []


# ---- tars


def test_a_tar_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with refused("not-found", "cannot open: No such file or directory", tmp_path / "absent"):
        Tar(str(tmp_path / "absent"))
    with refused("invalid", "not a regular file", tmp_path):
        Tar(str(tmp_path))
    path = tmp_path / "a.tar"
    for data, kind, what in [
        (b"\x1f\x8b" + bytes(600), "unsupported", "the archive is compressed as a whole: decompress it"),
        (b"x" * 1024, "corrupt", "not a tar, or not a whole one, at 0"),
        (b"x" * 511, "corrupt", "not a tar, or not a whole one, at 0"),
    ]:
        path.write_bytes(data)
        with refused(kind, what, path):
            Tar(str(path))
    tar(path, [("a", b"1" * 700), ("b", b"2")])
    whole = path.read_bytes()
    path.write_bytes(whole[:1536] + b"x" + whole[1537:])
    with refused("corrupt", "not a tar, or not a whole one, at 1536", path):
        Tar(str(path))
    path.write_bytes(whole[:1100])
    with refused("corrupt", "a member ends beyond the 1100 bytes of the archive, at 512", path):
        Tar(str(path))
    path.write_bytes(whole[:1212])
    with Tar(str(path)) as store:
        assert store.read("a") == b"1" * 700
        with refused("not-found", "there is no b", path):
            store.open("b")


def test_members_have_sizes_names_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "d/" + "n" * 200
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        members: list[Any] = [
            ("p/" * 60 + "x", b"deep"),
            ("first", b"1"),
            link("to", "first"),
            ("first", b"22"),
        ]
        if form != tarfile.USTAR_FORMAT:
            members += [(long, b"long"), link("far", long), link("hard", long, tarfile.LNKTYPE)]
        path = tar(tmp_path / "a.tar", members, form)
        with Tar(str(path)) as store:
            assert store.read("p/" * 60 + "x") == b"deep"
            assert (store.read("first"), store.size("first"), store.read("to")) == (b"22", 2, b"22")
            if form != tarfile.USTAR_FORMAT:
                assert store.read("far") == store.read("hard") == store.read(long) == b"long"
            assert "to" in store and "absent" not in store
    monkeypatch.setattr("obd.oci.tar.MAX_MEMBERS", 3)
    with Tar(str(tar(tmp_path / "b.tar", [(str(at), b"") for at in range(3)]))) as store:
        assert "2" in store
    with refused("limit", "more than 3 members", tmp_path / "b.tar"):
        Tar(str(tar(tmp_path / "b.tar", [(str(at), b"") for at in range(4)])))
    assert limits.MAX_LINKS == 8
    chain: list[Any] = [("0", b"end"), *(link(str(at), str(at - 1)) for at in range(1, 10))]
    with Tar(str(tar(tmp_path / "c.tar", chain[:3]))) as store:
        assert store.read("2") == b"end"
    with Tar(str(tar(tmp_path / "d.tar", [link("a", "b"), link("b", "a")]))) as store:
        assert "a" not in store


def test_a_number_of_a_header_may_be_of_base_256(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [("a", b"12345")])
    header = bytearray(path.read_bytes()[:512])
    for size, good in ((5, True), (1 << 61, False), (1 << 62, False), (1 << 80, False)):
        header[124:136] = b"\x80" + size.to_bytes(11, "big")
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        path.write_bytes(bytes(header) + b"12345".ljust(512, b"\0"))
        if good:
            with Tar(str(path)) as store:
                assert store.read("a") == b"12345"
            continue
        what = (
            "a member ends beyond the 1024 bytes of the archive, at 512"
            if size < 1 << 62
            else "a size that is none, at 0"
        )
        with refused("corrupt", what, path):
            Tar(str(path))
