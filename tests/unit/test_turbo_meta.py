"""Archives of turboOCI metadata: what is unpacked of them, whatever they hold."""

import gzip
import io
import os
import random
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from obd import turbo_meta
from obd.errors import ObdError
from obd.oci import Descriptor, ImageSource
from obd.oci.layers import TARGET_DIGEST, TARGET_MEDIA_TYPE
from obd.oci.media import OCI_LAYER, OCI_LAYER_GZIP
from obd.turbo_meta import Metas, unpack

MEMBERS = {
    "ext4.fs.meta": b"meta" * 300,
    "erofs.fs.meta": b"",
    "gzip.meta": b"index" * 100,
    ".turbo.ociv1": b"",
}


def archive(mode: str, members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    # What upstream packs with has the mode of its files and no times.
    with tarfile.open(fileobj=packed, mode=mode) as target:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def unpacked(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_known_members_are_written(tmp_path: Path, mode: str, prefix: str) -> None:
    members = {prefix + name: content for name, content in MEMBERS.items()}
    stream = io.BytesIO(archive(mode, {**members, "other": b"x", "dir/gzip.meta": b"x"}))
    unpack(stream, str(tmp_path), "here")
    assert unpacked(tmp_path) == MEMBERS
    assert stream.read() == b"", "a stream is read to its end, where its digest is checked"


def test_links_and_second_members_are_passed_over(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as target:
        link = tarfile.TarInfo("gzip.meta")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        target.addfile(link)
        for content in (b"first", b"second"):
            member = tarfile.TarInfo("ext4.fs.meta")
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    packed.seek(0)
    unpack(packed, str(tmp_path), "here")
    assert unpacked(tmp_path) == {"ext4.fs.meta": b"first"}


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turbo_meta, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(ObdError) as caught:
        unpack(io.BytesIO(archive("w:gz", MEMBERS)), str(tmp_path), "here")
    assert caught.value.kind == "limit" and unpacked(tmp_path) == {}


def test_a_bomb_is_known_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = archive("w:gz", {"ext4.fs.meta": bytes(200_000)})
    layer = Descriptor.of(packed, OCI_LAYER_GZIP)
    layer = replace(layer, annotations={TARGET_DIGEST: layer.digest, TARGET_MEDIA_TYPE: OCI_LAYER})

    class Source:
        name = "here"

        def blob(self, descriptor: Descriptor) -> io.BytesIO:
            return io.BytesIO(packed)

    metas = Metas(cast(ImageSource, Source()), str(tmp_path))
    monkeypatch.setattr(turbo_meta, "MIN_UNPACKED_BYTES", 1000)
    with pytest.raises(ObdError) as caught:
        metas.lower(layer)
    assert caught.value.kind == "limit" and list(tmp_path.iterdir()) == []


def odd(kind: bytes, content: bytes, again: int = 1) -> bytes:
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, len(content)
    return (member.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)) * again


@pytest.mark.parametrize(
    "start",
    [
        # Megabytes of these are a few kilobytes of gzip, and `tarfile` would hold them all in memory.
        odd(tarfile.XHDTYPE, bytes(1 << 20)),
        odd(tarfile.XGLTYPE, bytes(1 << 20)),
        odd(tarfile.GNUTYPE_LONGNAME, b"x" * (1 << 20)),
        odd(tarfile.GNUTYPE_SPARSE, b""),
        odd(tarfile.GNUTYPE_LONGNAME, b"x", 3000),
        odd(tarfile.XHDTYPE, b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"),
        odd(tarfile.XHDTYPE, b"24 GNU.sparse.map=one,a\n"),
        odd(tarfile.XHDTYPE, b"1" * 5000 + b" path=x\n"),
    ],
)
def test_headers_that_nobody_writes_are_refused(tmp_path: Path, start: bytes) -> None:
    packed = gzip.compress(start + archive("w", MEMBERS), 1)
    with pytest.raises(ObdError) as caught:
        unpack(io.BytesIO(packed), str(tmp_path), "here")
    assert caught.value.kind == "corrupt" and "\n" not in caught.value.line
    assert unpacked(tmp_path) == {}


def test_whatever_comes_is_unpacked_or_refused(tmp_path: Path) -> None:
    """A property of all archives: nothing but `ObdError` comes out, and nothing but known names goes in."""
    chance = random.Random(int(os.environ.get("PROPTEST_RNG_SEED", "1")))
    read = 0
    for number in range(100):
        data = bytearray(archive(chance.choice(["w", "w:gz"]), MEMBERS))
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.choice([0, 1, 8])] = chance.randbytes(chance.choice([1, 1, 1, 8]))
        home = tmp_path / str(number)
        home.mkdir()
        cut = chance.choice([len(data), len(data), chance.randrange(len(data))])
        try:
            unpack(io.BytesIO(data[:cut]), str(home), "here")
            read += 1
        except ObdError as error:
            assert error.kind in ("corrupt", "limit") and "\n" not in error.line
        assert set(unpacked(home)) <= set(MEMBERS)
    assert read > 5
