"""Layouts and archives as sources: what is in them, whatever their names say."""

import gzip
import io
import json
import os
import random
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from obd.errors import ObdError
from obd.oci import Descriptor, ImageSource, Index, Manifest, limits, media, parse_manifest
from obd.oci.digest import digest_of
from obd.oci.docker_archive import open_docker_archive
from obd.oci.layout import blob_name
from obd.oci.layout_destination import LayoutDestination
from obd.oci.layout_source import LayoutSource
from obd.oci.store import Directory
from obd.oci.tar import Tar

LAYER = b"layer" * 1000
DIFF_ID = digest_of(LAYER)
CONFIG = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [DIFF_ID]}}).encode()
IMAGE = Manifest(
    Descriptor.of(CONFIG, media.OCI_CONFIG), (Descriptor.of(LAYER, media.OCI_LAYER),), {"key": "value"}
)
DIGEST = IMAGE.descriptor().digest

Member = tuple[str, bytes] | tarfile.TarInfo


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def tar(path: Path, members: Iterable[Member], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for member in members:
            if isinstance(member, tuple):
                name, data = member
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            else:
                archive.addfile(member)
    return path


def layout_members(prefix: str = "") -> list[Member]:
    entry = Descriptor(
        media.OCI_MANIFEST, DIGEST, len(IMAGE.encode()), {"org.opencontainers.image.ref.name": "v1"}
    )
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": Index((entry,)).encode(),
        blob_name(DIGEST): IMAGE.encode(),
        blob_name(IMAGE.config.digest): CONFIG,
        blob_name(DIFF_ID): LAYER,
    }
    return [(prefix + name, data) for name, data in files.items()]


def contents(source: ImageSource) -> list[bytes]:
    """All that a source has: manifest, configuration, layers."""
    root, data = source.root()
    found = parse_manifest(data, root.media_type)
    assert isinstance(found, Manifest)
    blobs = []
    for blob in (found.config, *found.layers):
        with source.blob(blob) as stream:
            blobs.append(stream.read())
    return [data, *blobs]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./", "/"])
def test_a_layout_in_an_archive(tmp_path: Path, prefix: str, form: int) -> None:
    with LayoutSource(Tar(str(tar(tmp_path / "a.tar", layout_members(prefix), form))), "v1") as source:
        assert contents(source) == [IMAGE.encode(), CONFIG, LAYER]
        assert source.root()[0].digest == DIGEST


def test_long_names_and_digests_of_512_bits(tmp_path: Path) -> None:
    name = "blobs/sha512/" + "a" * 128
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with Tar(str(tar(tmp_path / "a.tar", [(name, b"data")], form))) as store:
            assert store.read(name) == b"data"


def docker(layer: str = "layer.tar", layers: list[Any] | None = None, **more: Any) -> bytes:
    entry = {"Config": "config.json", "RepoTags": ["team/app:v1"], "Layers": layers or [layer]}
    return json.dumps([{**entry, **more}]).encode()


OLD: list[Member] = [("config.json", CONFIG), ("layer.tar", LAYER), ("manifest.json", docker())]


@pytest.mark.parametrize("tag", ["", "team/app:v1", "docker.io/team/app:v1", "v1"])
def test_an_archive_of_docker(tmp_path: Path, tag: str) -> None:
    path = tar(tmp_path / "a.tar", OLD)
    if tag.startswith("docker.io/"):
        path = tar(tmp_path / "a.tar", [*OLD[:2], ("manifest.json", docker(RepoTags=[tag]))])
    with open_docker_archive(Tar(str(path)), tag) as source:
        manifest, config, layer = contents(source)
        assert (config, layer) == (CONFIG, LAYER)
        found = parse_manifest(manifest)
        assert isinstance(found, Manifest) and found.layers[0].digest == DIFF_ID
    with (
        open_docker_archive(Tar(str(path)), "other:v1") as source,
        pytest.raises(ObdError, match="there are: "),
    ):
        source.root()


@pytest.mark.parametrize("names", [7, "v1", {"v1": 1}, [7, None], None])
def test_names_of_any_type_are_none(tmp_path: Path, names: Any) -> None:
    path = str(tar(tmp_path / "a.tar", [*OLD[:2], ("manifest.json", docker(RepoTags=names))]))
    with open_docker_archive(Tar(path), "v1") as source, pytest.raises(ObdError, match="there are: none"):
        source.root()
    with open_docker_archive(Tar(path), "") as source:
        assert contents(source)[2] == LAYER


@pytest.mark.parametrize(
    ("packed", "kind"),
    [
        (gzip.compress(LAYER, mtime=0), media.OCI_LAYER_GZIP),
        (zstandard.compress(LAYER), media.OCI_LAYER_ZSTD),
        # What decoders are to skip, as parallel packers begin with.
        (b"\x50\x2a\x4d\x18\x01\0\0\0x" + zstandard.compress(LAYER), media.OCI_LAYER_ZSTD),
    ],
    ids=["gzip", "zstd", "skipped"],
)
def test_compressed_layers_of_docker_have_digests_of_their_own(
    tmp_path: Path, packed: bytes, kind: str
) -> None:
    path = tar(tmp_path / "a.tar", [OLD[0], ("layer.tar", packed), OLD[2]])
    with open_docker_archive(Tar(str(path)), "") as source:
        found = parse_manifest(source.root()[1])
        assert isinstance(found, Manifest)
        assert found.layers == (Descriptor(kind, digest_of(packed), len(packed)),)
        assert contents(source)[2] == packed


def test_an_archive_of_docker_that_is_a_layout_keeps_its_manifest(tmp_path: Path) -> None:
    members = [
        *layout_members(),
        ("manifest.json", docker(blob_name(DIFF_ID), Config=blob_name(IMAGE.config.digest))),
    ]
    path = str(tar(tmp_path / "a.tar", members))
    with open_docker_archive(Tar(path), "v1") as source:
        assert source.root()[1] == IMAGE.encode()
    with open_docker_archive(Tar(path), "team/app:v1") as source:
        assert source.root()[1] != IMAGE.encode()
        assert contents(source)[1:] == [CONFIG, LAYER]


@pytest.mark.parametrize(
    ("name", "target", "kind"),
    [
        ("a/layer.tar", "../real.tar", tarfile.SYMTYPE),
        ("a/layer.tar", "real.tar", tarfile.LNKTYPE),
        ("a/b/layer.tar", "../../x/../real.tar", tarfile.SYMTYPE),
    ],
)
def test_links_lead_to_other_members(tmp_path: Path, name: str, target: str, kind: bytes) -> None:
    members: list[Member] = [
        OLD[0],
        ("real.tar", LAYER),
        link(name, target, kind),
        ("manifest.json", docker(name)),
    ]
    with open_docker_archive(Tar(str(tar(tmp_path / "a.tar", members))), "") as source:
        assert contents(source)[2] == LAYER


@pytest.mark.parametrize(
    "members",
    [
        [link("layer.tar", "/etc/passwd")],
        [link("layer.tar", "../../etc/passwd")],
        [link("layer.tar", "../../etc/passwd", tarfile.LNKTYPE)],
        [link("layer.tar", "layer.tar")],
        [link("layer.tar", "b"), link("b", "layer.tar")],
        [("../layer.tar", LAYER)],
        [("x/../../layer.tar", LAYER)],
        [link("layer.tar", "", tarfile.FIFOTYPE)],
        [link("layer.tar", "", tarfile.CHRTYPE)],
        [("layer.tar", LAYER), link("layer.tar", "", tarfile.DIRTYPE)],
    ],
    ids=range(10),
)
def test_no_name_leads_out_of_the_archive(tmp_path: Path, members: list[Member]) -> None:
    (tmp_path / "layer.tar").write_bytes(LAYER)
    path = tar(tmp_path / "a.tar", [OLD[0], OLD[2], *members])
    with open_docker_archive(Tar(str(path)), "") as source, pytest.raises(ObdError) as caught:
        source.root()
    assert caught.value.kind == "not-found"


@pytest.mark.parametrize("name", ["/etc/passwd", "../../etc/passwd", "", "a\0b", 7, None])
def test_no_name_in_a_document_is_a_path(tmp_path: Path, name: Any) -> None:
    for document in (docker(layers=[name]), docker(Config=name)):
        path = tar(tmp_path / "a.tar", [*OLD[:2], ("manifest.json", document)])
        with open_docker_archive(Tar(str(path)), "") as source, pytest.raises(ObdError) as caught:
            source.root()
        assert caught.value.kind in ("not-found", "corrupt")


def huge(member: bytes) -> bytes:
    """A header that claims a size of 2^60."""
    size = b"\x80\0\0\0" + (1 << 60).to_bytes(8, "big")
    header = member[:124] + size + member[136:148] + b" " * 8 + member[156:512]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def long_header(size: int) -> bytes:
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, size
    return member.tobuf(tarfile.USTAR_FORMAT)


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "short": lambda data: data[:100],
    "cut": lambda data: data[:700],
    "noise": lambda data: b"\x01" + data,
    "no checksum": lambda data: data[:10] + b"?" + data[11:],
    "huge": lambda data: huge(data) + data[512:],
    "compressed": lambda data: gzip.compress(data),
    "long header": lambda data: long_header(limits.MAX_HEADER_BYTES + 1) + bytes(2 << 20),
    "header of nothing": lambda data: long_header(512) + bytes(512) + data,
    "header of lies": lambda data: long_header(512) + b"999 path=x\n".ljust(512, b"\0") + data,
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_no_whole_archive_is_refused(tmp_path: Path, how: str) -> None:
    path = tar(tmp_path / "a.tar", OLD)
    path.write_bytes(BROKEN[how](path.read_bytes()))
    with pytest.raises(ObdError) as caught, open_docker_archive(Tar(str(path)), "") as source:
        source.root()
    assert caught.value.kind in ("corrupt", "limit", "unsupported", "not-found")
    assert str(path) in caught.value.line and "\n" not in caught.value.line


def test_whatever_comes_is_read_or_refused(tmp_path: Path) -> None:
    """A property of all archives: nothing but `ObdError` comes out, and bytes are right or none."""
    chance = random.Random(int(os.environ.get("PROPTEST_RNG_SEED", "1")))
    long: Member = ("d/" * 60 + "name", b"x")
    members = [*layout_members(), *OLD, long, link("l", "layer.tar")]
    good = tar(tmp_path / "good.tar", members).read_bytes()
    path, read = tmp_path / "a.tar", 0
    for _ in range(400):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            # In headers and documents mostly: layers are digested, so nothing is found there.
            at = chance.randrange(0, len(data), 512) + chance.randrange(512)
            data[at : at + chance.choice([0, 1, 8])] = chance.randbytes(chance.choice([1, 1, 1, 8]))
        path.write_bytes(data[: chance.choice([len(data), len(data), chance.randrange(len(data))])])
        for tag in ("v1", "team/app:v1"):
            try:
                with open_docker_archive(Tar(str(path)), tag) as source:
                    assert contents(source)[2] == LAYER
                    read += 1
            except ObdError:
                continue
    assert read > 20


def test_many_members_are_too_many(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tarfile.TarInfo("x").tobuf() * (limits.MAX_MEMBERS + 1))
    with pytest.raises(ObdError) as caught:
        Tar(str(path))
    assert caught.value.kind == "limit"


@pytest.mark.timeout(15)
def test_many_records_in_a_header_take_their_time_once(tmp_path: Path) -> None:
    """A fraction of a second; half a minute where each record has all that follow copied."""
    last = b"12 path=fil\n"
    records = b"4 =\n" * ((limits.MAX_HEADER_BYTES - len(last)) // 4) + last
    header, member = tarfile.TarInfo("header"), tarfile.TarInfo("x")
    header.type, header.size, member.size = tarfile.XHDTYPE, len(records), len(LAYER)
    path = tmp_path / "a.tar"
    padding = bytes(-len(records) % 512)
    path.write_bytes(header.tobuf() + records + padding + member.tobuf() + LAYER + bytes(1024))
    with Tar(str(path)) as store:
        assert store.read("fil") == LAYER


def unpacked(directory: Path) -> Path:
    for member in layout_members():
        assert isinstance(member, tuple)
        path = directory / member[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(member[1])
    return directory


def test_a_layout_of_files_that_are_none(tmp_path: Path) -> None:
    path = unpacked(tmp_path) / blob_name(DIFF_ID)
    path.unlink()
    os.mkfifo(path)
    source = LayoutSource(Directory(str(tmp_path)), "v1")
    with pytest.raises(ObdError, match="not a regular file"):
        contents(source)
    path.unlink()
    with pytest.raises(ObdError) as caught:
        contents(source)
    assert caught.value.kind == "not-found"


@pytest.mark.parametrize(
    ("change", "says"),
    [(lambda data: data[:-1], "ends after 4999 bytes"), (lambda data: data + b"x", "goes on beyond"),
     (lambda data: b"L" + data[1:], "not sha256:")],
)  # fmt: skip
def test_wrong_bytes_of_a_blob_are_never_given_as_right(
    tmp_path: Path, change: Callable[[bytes], bytes], says: str
) -> None:
    path = unpacked(tmp_path) / blob_name(DIFF_ID)
    path.write_bytes(change(LAYER))
    with pytest.raises(ObdError, match=says) as caught:
        contents(LayoutSource(Directory(str(tmp_path)), "v1"))
    assert caught.value.kind == "corrupt" and str(path) in caught.value.line


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("oci-layout", b"{}", "unsupported"),
        ("oci-layout", b"[]", "corrupt"),
        ("index.json", b"{}", "corrupt"),
        ("index.json", IMAGE.encode(), "corrupt"),
        ("index.json", Index(()).encode(), "not-found"),
        ("index.json", b"[" * 100_000, "corrupt"),
        (blob_name(DIGEST), IMAGE.encode() + b" ", "corrupt"),
    ],
)
def test_documents_of_a_layout_are_checked(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    (unpacked(tmp_path) / name).write_bytes(data)
    with pytest.raises(ObdError) as caught:
        LayoutSource(Directory(str(tmp_path)), "v1").root()
    assert caught.value.kind == kind and str(tmp_path) in caught.value.line


def test_a_layout_is_only_made_where_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ObdError, match="neither an OCI layout nor empty"):
        LayoutDestination(str(tmp_path), "v1")
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]


def test_a_layout_keeps_what_it_does_not_know_and_moves_tags(tmp_path: Path) -> None:
    index = json.loads((unpacked(tmp_path) / "index.json").read_bytes())
    index["extension"] = {"kept": True}
    index["manifests"][0]["annotations"]["other"] = "kept"
    (tmp_path / "index.json").write_text(json.dumps(index))
    with LayoutDestination(str(tmp_path), "v2") as layout:
        layout.put_manifest(IMAGE.descriptor(), IMAGE.encode(), "v2")
        layout.put_manifest(IMAGE.descriptor(), IMAGE.encode(), "v2")
        assert layout.manifest("v2") == layout.manifest(DIGEST) == IMAGE.encode()
        assert layout.manifest("v3") is None
    found = json.loads((tmp_path / "index.json").read_bytes())
    assert found["extension"] == {"kept": True}
    assert found["manifests"][0] == index["manifests"][0]
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in found["manifests"]] == [
        "v1",
        "v2",
    ]


def test_wrong_content_is_not_stored(tmp_path: Path) -> None:
    with LayoutDestination(str(tmp_path), "v1") as layout:
        for content in (LAYER[:-1], LAYER + b"x", b"L" + LAYER[1:]):
            with pytest.raises(ObdError):
                layout.put_blob(IMAGE.layers[0], io.BytesIO(content))
            with pytest.raises(ObdError):
                layout.put_blob(IMAGE.layers[0], content)
        assert not layout.has_blob(IMAGE.layers[0])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["blobs", "index.json", "oci-layout"]


def test_what_the_dead_left_is_cleared_but_not_what_is_being_written(tmp_path: Path) -> None:
    with LayoutDestination(str(tmp_path), "v1"):
        pass
    (tmp_path / ".obd-0123456789abcdef.tmp").write_bytes(b"half")

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() == 0:
                with LayoutDestination(str(tmp_path), "v2"):
                    pass
                names = [entry.name for entry in tmp_path.iterdir() if entry.name.endswith(".tmp")]
                assert len(names) == 1 and names[0] != ".obd-0123456789abcdef.tmp"
            return super().read(size)

    with LayoutDestination(str(tmp_path), "v1") as layout:
        layout.put_blob(IMAGE.layers[0], Slow(LAYER))
        assert layout.has_blob(IMAGE.layers[0])
