"""Layouts and archives: what each refusal says and of which kind it is, and what is written where."""

import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from obd.errors import ObdError
from obd.oci import Descriptor, Index, Manifest, media, parse_manifest
from obd.oci import layout_destination as layout_destination_module
from obd.oci.archive_destination import ArchiveDestination
from obd.oci.body import FileBody, Part, StreamBody
from obd.oci.content import pieces
from obd.oci.digest import Verified, check, digest_of, is_digest
from obd.oci.docker_archive import DockerArchiveDestination, open_docker_archive
from obd.oci.layout import blob_name, check_tag, find, read_index, with_entry
from obd.oci.layout_destination import LayoutDestination
from obd.oci.layout_source import LayoutSource
from obd.oci.store import Directory
from obd.oci.tar import Tar
from obd.oci.temporary import Temporary, write_all
from tests.unit.test_oci_archives import CONFIG, DIFF_ID, IMAGE, LAYER, docker, tar

REF = "org.opencontainers.image.ref.name"
NAME = "io.containerd.image.name"
MANIFEST = IMAGE.descriptor()


def refused(kind: str, what: str, file: str | Path = "") -> Any:
    """A refusal with exactly these words."""
    return pytest.raises(ObdError, check=lambda e: (e.kind, e.what, e.file) == (kind, what, str(file)))


def entry(name: str, digits: str, key: str = REF) -> Descriptor:
    return Descriptor(media.OCI_MANIFEST, f"sha256:{digits * 64}", 5, {key: name} if name else {})


def put_image(destination: ArchiveDestination | LayoutDestination, tag: str | None = "v1") -> None:
    destination.put_blob(IMAGE.config, CONFIG)
    destination.put_blob(IMAGE.layers[0], io.BytesIO(LAYER))
    destination.put_manifest(MANIFEST, IMAGE.encode(), tag)


# ---- layouts


def test_what_is_no_layout_says_so(tmp_path: Path) -> None:
    store = Directory(str(tmp_path))
    with refused("not-found", "no OCI layout: there is no oci-layout", tmp_path):
        read_index(store)
    (tmp_path / "oci-layout").mkdir()
    with refused("corrupt", "not a regular file", tmp_path / "oci-layout"):
        read_index(store)
    (tmp_path / "oci-layout").rmdir()
    for version, shown in [('"2.0.0"', "'2.0.0'"), ("1.0", "1.0"), ("null", "None")]:
        (tmp_path / "oci-layout").write_text(f'{{"imageLayoutVersion":{version}}}')
        with refused("unsupported", f"an OCI layout of version {shown}", tmp_path):
            read_index(store)
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"1.2.0"}')
    with refused("not-found", "cannot open: No such file or directory", tmp_path / "index.json"):
        read_index(store)
    (tmp_path / "index.json").write_bytes(IMAGE.encode())
    with pytest.raises(ObdError, match=r"^corrupt: .*/index\.json: "):
        read_index(store)
    (tmp_path / "oci-layout").write_text("{")
    with refused("corrupt", "not a oci-layout: not JSON", tmp_path / "oci-layout"):
        read_index(store)


def test_an_entry_is_found_by_each_of_its_names() -> None:
    one, two = entry("v1", "1"), entry("host/app:v2", "2", NAME)
    index = Index((one, two, entry("", "3")))
    assert find(index, "v1", "x") is one and find(index, "host/app:v2", "x") is two
    assert find(index, "sha256:" + "3" * 64, "x").digest.endswith("3")
    assert find(Index((two,)), "", "x") is two
    digest = "sha256:" + "3" * 64
    with refused("not-found", f"no image v2; there are: host/app:v2, {digest}, v1", "where"):
        find(index, "v2", "where")
    with refused("not-found", f"3 images: say which; there are: host/app:v2, {digest}, v1", "where"):
        find(index, "", "where")
    with refused("not-found", "0 images: say which", "where"):
        find(Index(()), "", "where")
    many = Index(tuple(entry(f"a-tag-{at:03}", "4") for at in range(100)))
    with pytest.raises(ObdError, check=lambda e: len(e.what) == 500 and e.what.startswith("no image x; ")):
        find(many, "x", "where")


def test_a_tag_moves_and_what_has_none_is_there_once() -> None:
    one, two = entry("v1", "1"), entry("v2", "2")
    index = Index((one, two), {"key": "value"})
    moved = with_entry(index, entry("", "3"), "v1")
    assert [each.annotations.get(REF) for each in moved.manifests] == ["v2", "v1"]
    assert moved.manifests[1].digest == "sha256:" + "3" * 64 and moved.annotations == {"key": "value"}
    kept = with_entry(index, Descriptor("type", "sha256:" + "3" * 64, 1, {"a": "b"}), "v3").manifests[-1]
    assert kept.annotations == {"a": "b", REF: "v3"}
    assert with_entry(index, one, "") is index
    assert with_entry(index, entry("", "3"), "").manifests == (one, two, entry("", "3"))


@pytest.mark.parametrize("tag", ["sha256:" + "0" * 64, "a\nb", "\x1b[1m"])
def test_what_cannot_be_a_tag(tmp_path: Path, tag: str) -> None:
    with refused("invalid", f"{tag!r} cannot be a tag"):
        check_tag(tag)
    for kind in (LayoutDestination, ArchiveDestination):
        with pytest.raises(ObdError, match="cannot be a tag"):
            kind(str(tmp_path / "x"), tag)
    layout = LayoutDestination(str(tmp_path / "y"), "v1")
    with pytest.raises(ObdError, match="cannot be a tag"):
        put_image(layout, tag)
    check_tag("any thing: else")


def test_a_layout_is_written_piece_by_piece_and_whole_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "deep/layout"
    destination = LayoutDestination(str(path), "v1")
    assert (destination.name, destination.tag) == (f"{path}:v1", "v1")
    assert LayoutDestination(str(path), "").name == str(path)
    assert sorted(os.listdir(path)) == ["blobs", "index.json", "oci-layout"]
    assert os.listdir(path / "blobs") == ["sha256"]
    assert json.loads((path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))

    layer = IMAGE.layers[0]
    assert not destination.has_blob(layer)
    (path / blob_name(DIFF_ID)).write_bytes(LAYER[:-1])
    assert not destination.has_blob(layer), "one of another size is broken"
    destination.put_blob(layer, LAYER, progress)
    assert destination.has_blob(layer) and (path / blob_name(DIFF_ID)).read_bytes() == LAYER
    destination.put_blob(layer, b"not even read", progress)
    assert told == [(len(LAYER), len(LAYER))] * 2
    assert (path / blob_name(DIFF_ID)).stat().st_mode & 0o777 == 0o644
    big = b"5" * 10
    sha512 = Descriptor("type", "sha512:" + hashlib.sha512(big).hexdigest(), 10)
    destination.put_blob(sha512, big)
    destination.put_manifest(MANIFEST, IMAGE.encode(), None)
    assert destination.manifest("v1") is None and destination.manifest(MANIFEST.digest) == IMAGE.encode()
    destination.put_manifest(MANIFEST, IMAGE.encode(), "v1")
    assert destination.manifest("v1") == IMAGE.encode()
    assert destination.manifest("sha256:" + "0" * 64) is None and destination.manifest("v2") is None
    destination.close()
    destination.discard()
    put_image(destination)
    with LayoutSource(Directory(str(path)), "") as source:
        assert source.root() == (MANIFEST, IMAGE.encode()) and source.name == str(path)
        assert source.path(layer) == str(path / blob_name(DIFF_ID))
    assert LayoutSource(Directory(str(path)), "v1").name == f"{path}:v1"


def test_a_layout_is_not_made_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with refused("invalid", "neither an OCI layout nor empty", tmp_path):
        LayoutDestination(str(tmp_path), "")
    with refused("exists", "File exists", tmp_path / "file"):
        LayoutDestination(str(tmp_path / "file"), "")
    monkeypatch.setattr(layout_destination_module, "_WAIT_S", 0.0)
    (tmp_path / "empty").mkdir()
    fd = os.open(tmp_path / "empty", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with refused("busy", "another program keeps it locked", tmp_path / "empty"):
        LayoutDestination(str(tmp_path / "empty"), "")
    os.close(fd)
    assert LayoutDestination(str(tmp_path / "empty"), "").manifest("v1") is None


def test_a_disk_that_refuses_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = LayoutDestination(str(tmp_path / "layout"), "")
    archive = ArchiveDestination(str(tmp_path / "a.tar"), "")

    def full(fd: int, data: object, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with refused("no-space", "No space left on device", tmp_path / "layout"):
        layout.put_blob(IMAGE.config, CONFIG)
    with refused("no-space", "No space left on device", tmp_path / "a.tar"):
        archive.put_blob(IMAGE.config, CONFIG)
    archive.discard()
    assert os.listdir(tmp_path) == ["layout"]


# ---- archives of ours


@pytest.mark.parametrize("kind", [ArchiveDestination, DockerArchiveDestination])
def test_an_archive_is_a_tar_that_anybody_reads(tmp_path: Path, kind: type[ArchiveDestination]) -> None:
    path = tmp_path / "a.tar"
    destination = kind(str(path), "app:v1")
    assert (destination.name, destination.tag) == (f"{path}:app:v1", "app:v1")
    other = kind(str(tmp_path / "b"), "")
    assert other.name == str(tmp_path / "b")
    other.discard()
    told: list[tuple[int, int]] = []
    assert not destination.has_blob(IMAGE.config)
    destination.put_blob(IMAGE.config, CONFIG, lambda done, total: told.append((done, total)))
    destination.put_blob(IMAGE.config, b"not even read")
    assert destination.has_blob(IMAGE.config) and told == [(len(CONFIG), len(CONFIG))]
    assert destination.manifest("v1") is None and destination.manifest(MANIFEST.digest) is None
    put_image(destination, "app:v1")
    assert destination.manifest("app:v1") == destination.manifest(MANIFEST.digest) == IMAGE.encode()
    assert not path.exists()
    destination.close()
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        read = {each.name: archive.extractfile(each).read() for each in members}  # type: ignore[union-attr]
    blobs = {blob_name(digest_of(data)): data for data in (CONFIG, LAYER, IMAGE.encode())}
    index = Index((Descriptor(media.OCI_MANIFEST, MANIFEST.digest, MANIFEST.size, {REF: "app:v1"}),))
    documents = {"index.json": index.encode(), "oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    if kind is DockerArchiveDestination:
        image = {
            "Config": blob_name(IMAGE.config.digest),
            "RepoTags": ["app:v1"],
            "Layers": [blob_name(DIFF_ID)],
        }
        documents["manifest.json"] = json.dumps([image], separators=(",", ":")).encode()
    assert read == blobs | documents and len(members) == len(read)
    size = path.stat().st_size
    assert size == sum(512 + -(-len(data) // 512) * 512 for data in read.values()) + 1024
    assert path.stat().st_mode & 0o777 == 0o644 and os.listdir(tmp_path) == ["a.tar"]


def test_an_archive_is_whole_whichever_of_its_writes_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy tries a blob again after an error: what its first try did not write must be written then."""
    straight = ArchiveDestination(str(tmp_path / "straight.tar"), "v1")
    put_image(straight)
    straight.close()
    pwrite, again = os.pwrite, []
    # One more than there are: headers and bytes of three blobs.
    for failing in range(7):
        calls = itertools.count()

        def flaky(fd: int, data: bytes, offset: int, failing: int = failing, calls: Any = calls) -> int:
            if next(calls) == failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return pwrite(fd, data, offset)

        archive = ArchiveDestination(str(tmp_path / f"{failing}.tar"), "v1")
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", flaky)
            try:
                put_image(archive)
            except ObdError as error:
                assert error.kind == "io"
                again.append(failing)
                put_image(archive)
        archive.close()
        assert (tmp_path / f"{failing}.tar").read_bytes() == (tmp_path / "straight.tar").read_bytes()
    assert again == [0, 1, 2, 3, 4, 5]


def test_an_archive_is_not_made_where_it_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with refused("not-found", "No such file or directory", tmp_path / "absent"):
        ArchiveDestination(str(tmp_path / "absent/a.tar"), "")
    empty = ArchiveDestination(str(path), "")
    with refused("invalid", "no image was put into it", path):
        empty.close()
    lacking = ArchiveDestination(str(path), "v1")
    with pytest.raises(ObdError):
        lacking.put_blob(IMAGE.layers[0], LAYER[:-1])
    with pytest.raises(ObdError):
        lacking.put_blob(IMAGE.config, CONFIG + b"x")
    lacking.put_manifest(MANIFEST, IMAGE.encode(), "v1")
    with refused("invalid", "2 blobs are not whole", path):
        lacking.close()
    late = ArchiveDestination(str(path), "v1")
    put_image(late)
    path.write_bytes(b"another's")
    with refused("exists", "is there already and is not overwritten", path):
        late.close()
    assert path.read_bytes() == b"another's" and os.listdir(tmp_path) == ["a.tar"]
    with refused("exists", "is there already and is not overwritten", path):
        ArchiveDestination(str(path), "")
    (tmp_path / "link").symlink_to("nowhere")
    with refused("exists", "is there already and is not overwritten", tmp_path / "link"):
        ArchiveDestination(str(tmp_path / "link"), "")


@pytest.mark.parametrize(
    ("tag", "names"),
    [("", []), ("app", ["app:latest"]), ("host:5000/app", ["host:5000/app:latest"]), ("app:v1", ["app:v1"])],
)
def test_names_for_docker_have_tags(tmp_path: Path, tag: str, names: list[str]) -> None:
    with DockerArchiveDestination(str(tmp_path / "a.tar"), tag) as destination:
        put_image(destination, tag)
    with Tar(str(tmp_path / "a.tar")) as store:
        assert json.loads(store.read("manifest.json"))[0]["RepoTags"] == names


def test_docker_loads_one_platform(tmp_path: Path) -> None:
    destination = DockerArchiveDestination(str(tmp_path / "a.tar"), "v1")
    put_image(destination, None)
    index = Index((MANIFEST,))
    destination.put_manifest(index.descriptor(), index.encode(), "v1")
    with refused("unsupported", "Docker's archives hold images for one platform", f"{tmp_path}/a.tar:v1"):
        destination.close()
    assert os.listdir(tmp_path) == []


# ---- archives of Docker


@pytest.mark.parametrize(
    ("name", "tags", "others"),
    [
        ("team/app:v1", ["team/app:v1", "v1"], ["team/app", "app:v1", "app"]),
        ("docker.io/library/app:latest", ["app", "app:latest", "latest"], ["docker.io/app", "library/app"]),
        ("host:5000/app:v2", ["host:5000/app:v2", "v2"], ["5000/app:v2", "host"]),
    ],
)
def test_an_image_of_docker_is_found_by_name_or_tag(
    tmp_path: Path, name: str, tags: list[str], others: list[str]
) -> None:
    members = [("config.json", CONFIG), ("layer.tar", LAYER), ("manifest.json", docker(RepoTags=[name]))]
    path = tar(tmp_path / "a.tar", members)
    for tag in ["", *tags]:
        with open_docker_archive(Tar(str(path)), tag) as source:
            assert source.root()[0] == MANIFEST_OF_DOCKER
            assert source.name == (f"{path}:{tag}" if tag else str(path))
    for tag in others:
        what = f"no image {tag}; there are: {name}"
        with open_docker_archive(Tar(str(path)), tag) as source, refused("not-found", what, f"{path}:{tag}"):
            source.root()


MANIFEST_OF_DOCKER = Manifest(IMAGE.config, (Descriptor(media.OCI_LAYER, DIFF_ID, len(LAYER)),)).descriptor()


def test_an_image_of_docker_gives_what_it_has_and_nothing_else(tmp_path: Path) -> None:
    members = [("config.json", CONFIG), ("layer.tar", LAYER), ("manifest.json", docker())]
    path = tar(tmp_path / "a.tar", members)
    absent = Descriptor(media.OCI_LAYER, "sha256:" + "0" * 64, 5)
    with open_docker_archive(Tar(str(path)), "") as source:
        with source.blob(IMAGE.layers[0]) as blob:
            assert blob.read() == LAYER
        with refused("not-found", f"there is no {absent.digest}", path):
            source.blob(absent)
        with refused("not-found", f"there is no {absent.digest}", path):
            source.manifest(absent)
        known, data = source.root()
        assert source.manifest(known) == data
        short = Descriptor(known.media_type, known.digest, known.size + 1)
        with refused("corrupt", f"{len(data)} bytes, {known.digest} has {known.size + 1}", path):
            source.manifest(short)
        wrong = Descriptor(media.OCI_LAYER, DIFF_ID, len(LAYER) + 1)
        with source.blob(wrong) as blob, pytest.raises(ObdError, match=r"a\.tar/layer\.tar: ends after 5000"):
            blob.read()


@pytest.mark.parametrize(
    ("images", "kind", "what"),
    [
        ([], "not-found", "0 images: say which; there are: none"),
        (
            [{"RepoTags": ["a:1"]}, {"RepoTags": ["b:2", 5]}],
            "not-found",
            "2 images: say which; there are: a:1, b:2",
        ),
        ([5], "corrupt", "manifest.json is no object: 5"),
        ([{"Config": 5}], "corrupt", "manifest.json.Config is no text: 5"),
        ([{"Config": "config.json"}], "corrupt", "manifest.json has no list of Layers"),
        ([{"Config": "config.json", "Layers": []}], "corrupt", "0 layers, but 1 in the configuration"),
        ([{"Config": "config.json", "Layers": [7]}], "corrupt", "7 is no name of a layer"),
        ([{"Config": "config.json", "Layers": ["gone"]}], "not-found", "there is no gone"),
    ],
)
def test_what_docker_would_not_write_is_told(tmp_path: Path, images: list[Any], kind: str, what: str) -> None:
    path = tar(tmp_path / "a.tar", [("config.json", CONFIG), ("manifest.json", json.dumps(images).encode())])
    with open_docker_archive(Tar(str(path)), "") as source, refused(kind, what, path):
        source.root()


# ---- what an upload or a file is given


def test_content_is_checked_wherever_it_comes_from(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 5)
    (tmp_path / "file").write_bytes(data)
    blob, told = Descriptor.of(data, "type"), list[tuple[int, int]]()
    for content in (str(tmp_path / "file"), data, io.BytesIO(data)):
        told.clear()
        got = [bytes(each) for each in pieces(blob, content, lambda done, total: told.append((done, total)))]
        assert b"".join(got) == data and [len(each) for each in got] == [1 << 20, 5]
        assert told == [(1 << 20, len(data)), (len(data), len(data))]
        assert b"".join(map(bytes, pieces(blob, data, None))) == data
    wrong = Descriptor.of(data + b"x", "type")
    for content, where in ((str(tmp_path / "file"), str(tmp_path / "file")), (data, wrong.digest)):
        what = f"ends after {len(data)} bytes, {wrong.digest} has {len(data) + 1}"
        with refused("corrupt", what, where):
            list(pieces(wrong, content, None))
    with refused("corrupt", f"ends after {len(data)} bytes, {wrong.digest} has {len(data) + 1}", "place"):
        list(pieces(wrong, Verified(io.BytesIO(data), wrong, "place"), None))  # type: ignore[arg-type]


def test_a_stream_proves_its_digest_at_its_end() -> None:
    blob = Descriptor.of(b"12345", "type")
    good = Verified(io.BytesIO(b"12345"), blob, "place")
    assert good.readable() and good.readinto(bytearray()) == 0
    assert (good.read(3), good.read(), good.read(), good.read(1)) == (b"123", b"45", b"", b"")
    stream = io.BytesIO(b"")
    Verified(stream, blob, "place").close()
    assert stream.closed
    with refused("corrupt", f"goes on beyond the 5 bytes of {blob.digest}", "place"):
        Verified(io.BytesIO(b"123456"), blob, "place").read()
    found = digest_of(b"12346")
    what = f"the bytes are {found}, not {blob.digest}"
    with refused("corrupt", what, "place"):
        Verified(io.BytesIO(b"12346"), blob, "place").read()
    with refused("corrupt", what, "place"):
        check(b"12346", blob, "place")
    with refused("corrupt", f"4 bytes, {blob.digest} has 5", "place"):
        check(b"1234", blob, "place")
    assert check(b"12345", blob, "place") == b"12345"


def test_what_is_a_digest() -> None:
    assert is_digest("sha256:" + "0af" * 21 + "0") and is_digest("sha512:" + "0" * 128)
    for wrong in (
        "",
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "A" * 64,
        "md5:" + "0" * 32,
        "0" * 64,
        5,
        None,
    ):
        assert not is_digest(wrong)


def test_a_file_is_sent_from_anywhere_a_stream_only_once(tmp_path: Path) -> None:
    data = os.urandom((2 << 20) + 7)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        body = FileBody(file)
        assert body.again and b"".join(body.pieces(5, len(data))) == data[5:]
        assert [len(each) for each in body.pieces(0, len(data))] == [1 << 20, 1 << 20, 7]
        assert list(body.pieces(3, 3)) == []
        with refused("corrupt", "the file became shorter while it was uploaded"):
            list(body.pieces(len(data) - 2, len(data) + 1))
    stream = StreamBody(io.BytesIO(data), len(data))
    assert not stream.again and b"".join(stream.pieces(0, 100)) == data[:100]
    assert b"".join(stream.pieces(0, 100)) == data[:100], "a part may be sent again"
    assert b"".join(stream.pieces(0, 200)) == data[:200]
    assert b"".join(stream.pieces(200, len(data))) == data[200:]
    with refused("corrupt", f"the content ends after {len(data)} of {len(data) + 9} bytes"):
        list(StreamBody(io.BytesIO(data), len(data) + 9).pieces(0, len(data) + 9))
    with refused("corrupt", "the content is longer than 5 bytes"):
        list(StreamBody(io.BytesIO(data), 5).pieces(0, 5))


def test_a_part_tells_how_far_it_is_and_what_its_content_raised() -> None:
    told: list[tuple[int, int]] = []
    body = StreamBody(io.BytesIO(b"0123456789"), 11)
    part = Part(body, 0, 4, 11, lambda done, total: told.append((done, total)))
    assert len(part) == 4 and b"".join(part) == b"0123" and b"".join(part) == b"0123"
    assert told == [(4, 11), (4, 11)] and part.failure is None
    last = Part(body, 4, 11, 11, None)
    with pytest.raises(ObdError) as caught:
        list(last)
    assert last.failure is caught.value


# ---- files that are whole or not there


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with Temporary(str(tmp_path)) as file:
        write_all(file.fd, b"new", 0)
        assert [name.startswith(".obd-") and name.endswith(".tmp") for name in os.listdir(tmp_path)] == [True]
        file.publish(str(tmp_path / "name"), replace=False)
        assert os.listdir(tmp_path) == ["name"]
    with Temporary(str(tmp_path)) as file:
        write_all(file.fd, b"newer", 0)
        with refused("exists", "is there already and is not overwritten", tmp_path / "name"):
            file.publish(str(tmp_path / "name"), replace=False)
        assert (tmp_path / "name").read_bytes() == b"new"
        file.publish(str(tmp_path / "name"), replace=True)
    assert (tmp_path / "name").read_bytes() == b"newer" and os.listdir(tmp_path) == ["name"]
    with (
        Temporary(str(tmp_path)) as file,
        refused("not-found", "No such file or directory", tmp_path / "a/b"),
    ):
        file.publish(str(tmp_path / "a/b"), replace=True)
    assert os.listdir(tmp_path) == ["name"]
    with refused("not-found", "cannot create a file: No such file or directory", tmp_path / "absent"):
        Temporary(str(tmp_path / "absent"))


def test_a_manifest_of_a_layout_is_what_its_entry_says(tmp_path: Path) -> None:
    layout = LayoutDestination(str(tmp_path), "v1")
    put_image(layout)
    blob = tmp_path / blob_name(MANIFEST.digest)
    blob.write_bytes(IMAGE.encode()[:-1] + b" ")
    with LayoutSource(Directory(str(tmp_path)), "v1") as source, pytest.raises(ObdError) as caught:
        source.root()
    assert caught.value.kind == "corrupt" and caught.value.file == str(blob)
    assert isinstance(parse_manifest(IMAGE.encode()), Manifest)
