"""Fuzz targets of archives: OCI's and Docker's, and those of turboOCI metadata."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from contextlib import closing
from typing import Any, Final

from obd.oci.digest import digest_of
from obd.oci.docker_archive import open_docker_archive
from obd.oci.layout import find, read_index
from obd.oci.layout_source import LayoutSource
from obd.oci.manifest import parse_manifest
from obd.oci.tar import Tar
from obd.turbo_meta import unpack
from tests.fuzz.documents import files
from tests.fuzz.target import Target

_BLOCK: Final = 512
_MOST_BYTES: Final = 1 << 20


def _summed(data: bytes) -> bytes:
    """An archive whose blocks have the checksums of headers, if they look like one."""
    blocks = bytearray(data)
    for at in range(0, len(blocks) - _BLOCK + 1, _BLOCK):
        block = blocks[at : at + _BLOCK]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(blocks)


def oci_archive(data: bytes) -> None:
    files.put("archive.tar", _summed(data))
    with closing(Tar(files.path("archive.tar"))) as store:
        entry = find(read_index(store), "", store.name)
        source = LayoutSource(store, "")
        manifest = parse_manifest(source.manifest(entry))
        for blob in getattr(manifest, "blobs", ()):
            with closing(source.blob(blob)) as stream:
                stream.read(_MOST_BYTES)


def docker_archive(data: bytes) -> None:
    files.put("archive.tar", _summed(data))
    with closing(Tar(files.path("archive.tar"))) as store, closing(open_docker_archive(store, "")) as source:
        for blob in getattr(parse_manifest(source.root()[1]), "blobs", ()):
            with closing(source.blob(blob)) as stream:
                stream.read(_MOST_BYTES)


def turbo_meta(data: bytes) -> None:
    """Plain, or packed here, so that the archive in it is mutated and not its compression alone."""
    directory = files.path("meta")
    os.makedirs(directory, exist_ok=True)
    for name in os.listdir(directory):
        os.unlink(os.path.join(directory, name))
    packed = data if data[:2] == b"\x1f\x8b" else _summed(data)
    unpack(io.BytesIO(packed), directory, "a layer")
    assert len(os.listdir(directory)) <= 5


def _tar(members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    # Without most of the zeros at the end.
    data = out.getvalue().rstrip(b"\0")
    return data + bytes(-len(data) % _BLOCK + _BLOCK)


_LAYER: Final = b"layer" * 30
_CONFIG: Final = json.dumps({"rootfs": {"type": "layers", "diff_ids": [digest_of(_LAYER)]}}).encode()


def _named(kind: str, content: bytes) -> dict[str, Any]:
    return {
        "mediaType": f"application/vnd.oci.image.{kind}",
        "digest": digest_of(content),
        "size": len(content),
    }


_MANIFEST: Final = json.dumps(
    {
        "schemaVersion": 2,
        "config": _named("config.v1+json", _CONFIG),
        "layers": [_named("layer.v1.tar", _LAYER)],
    }
).encode()
_INDEX: Final = json.dumps(
    {"schemaVersion": 2, "manifests": [_named("manifest.v1+json", _MANIFEST)]}
).encode()
_OCI: Final = _tar(
    {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": _INDEX,
        **{f"blobs/sha256/{digest_of(each)[7:]}": each for each in (_MANIFEST, _CONFIG, _LAYER)},
    }
)
_DOCKER: Final = _tar(
    {
        "manifest.json": json.dumps(
            [{"Config": "config.json", "RepoTags": ["a:b"], "Layers": ["1/layer.tar"]}]
        ).encode(),
        "config.json": _CONFIG,
        "1/layer.tar": _LAYER,
    },
    tarfile.PAX_FORMAT,
)
_META: Final = _tar(
    {"ext4.fs.meta": b"m" * 600, "gzip.meta": b"g", ".turbo.ociv1": b"", "n" * 120: b"x"}, tarfile.GNU_FORMAT
)
_WORDS: Final = (
    b"0000000",
    b"77777777777",
    b"\x80" + bytes(10),
    b"x",
    b"L",
    b"g",
    b"1",
    b"2",
    b"../",
    b"12 size=9\n",
    b"ustar\0",
)

TARGETS: Final = (
    Target("oci_archive", oci_archive, (_OCI,), _WORDS),
    Target("docker_archive", docker_archive, (_DOCKER,), _WORDS),
    Target("turbo_meta", turbo_meta, (_META, gzip.compress(_META, mtime=0)), _WORDS),
)
