"""Layers and archives of images that mean harm: what is in them leads out, overlaps, or never ends."""

import io
import json
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.e2e.layers import archive
from tests.e2e.layers.archive import Member, header, pack
from tests.e2e.layers.test_hostile import REFUSED, SIZE, with_header
from tests.e2e.layers.torture import d, f, link, sym
from tests.e2e.layers.unpacking import applied
from tests.hostile.case import MIB, Case, Place, harmless, refused

ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202e"


@cache
def _template(_: None = None) -> bytes:
    """An ext4 with a file in it."""
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        image = Path(home) / "raw.img"
        applied(image, pack([f("below"), d("dir")]), Path(home), SIZE)
        return image.read_bytes()


def packed(members: list[Member]) -> Callable[[Place], bytes]:
    """These members."""
    return lambda place: pack(members)


def apply(layer: Callable[[Place], bytes]) -> Callable[[Place], list[str]]:
    """Has it applied to a small ext4."""

    def command(place: Place) -> list[str]:
        image = place.file("raw.img", _template())
        return ["overlaybd-apply", "--raw", place.file("layer", layer(place)), image]

    return command


def escaping(place: Place) -> bytes:
    """Every way out of a root that a tar knows."""
    out = str(place.decoy)
    up = "../" * 30 + out.lstrip("/")
    return pack(
        [
            *(f(out, b"x"), f(up, b"x"), sym("abs", out), sym("up", up), f("up"), sym("dir2", "/")),
            *(f(f"dir2{out}", b"x"), Member(f".wh.{out}"), Member("dir2/.wh.etc"), link("hard", "abs")),
            *(
                Member("null", archive.CHAR, device=(1, 3)),
                Member("disk", archive.BLOCK_DEVICE, device=(8, 0)),
            ),
            Member("suid", mode=0o6755, content=b"#!/bin/sh\n"),
        ]
    )


def untouched(place: Place) -> None:
    """The decoy is what it was."""
    assert place.decoy.read_text() == "what nobody may read"


def tarred(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    """A tar of files, and of members made by hand."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                made.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
    return out.getvalue()


def linked(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A link in a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


MARK: dict[str, Any] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
DIGEST = "sha256:" + "a" * 64


def image_archive(kind: str, make: Callable[[Place], bytes]) -> Callable[[Place], list[str]]:
    """Has an archive of an image copied."""

    def command(place: Place) -> list[str]:
        return ["obd", "copy", f"{kind}:{place.file('in.tar', make(place))}", f"oci:{place.home}/out:x"]

    return command


def docker(**entry: Any) -> Callable[[Place], bytes]:
    """A Docker archive whose manifest says this; `{out}` is the decoy."""

    def make(place: Place) -> bytes:
        told = json.loads(
            json.dumps([{"Config": "c.json", "RepoTags": ["a:b"], "Layers": [], **entry}]).replace(
                "{out}", str(place.decoy)
            )
        )
        config = {"rootfs": {"type": "layers", "diff_ids": [DIGEST] * len(told[0]["Layers"])}}
        return tarred({"manifest.json": json.dumps(told).encode(), "c.json": json.dumps(config).encode()})

    return make


def oci_links(place: Place) -> bytes:
    """A layout whose documents are links to outside."""
    up = "../" * 30 + str(place.decoy).lstrip("/")
    return tarred(
        {
            **MARK,
            "index.json": json.dumps(
                {
                    "schemaVersion": 2,
                    "manifests": [
                        {
                            "mediaType": "application/vnd.oci.image.manifest.v1+json",
                            "digest": DIGEST,
                            "size": 20,
                        }
                    ],
                }
            ).encode(),
            "1": linked(f"blobs/sha256/{'a' * 64}", up),
        }
    )


ARCHIVES: dict[str, tuple[str, Callable[[Place], bytes], str]] = {
    "OCI: blobs that are links out": ("oci-archive", oci_links, "not-found"),
    "OCI: an index that is a link out": (
        "oci-archive",
        lambda place: tarred({**MARK, "1": linked("index.json", str(place.decoy))}),
        "not-found",
    ),
    "OCI: an index that is a hard link out": (
        "oci-archive",
        lambda place: tarred({**MARK, "1": linked("index.json", f"../../{place.decoy}", tarfile.LNKTYPE)}),
        "not-found",
    ),
    "OCI: links in a ring": (
        "oci-archive",
        lambda place: tarred({**MARK, "1": linked("index.json", "a"), "2": linked("a", "index.json")}),
        "not-found",
    ),
    "OCI: an index of 5 MiB": (
        "oci-archive",
        lambda place: tarred({**MARK, "index.json": b" " * (5 * MIB)}),
        "limit",
    ),
    "OCI: a member of 8 EiB": (
        "oci-archive",
        lambda place: archive.summed(bytearray(header(b"index.json", "0", (1 << 63) - 1))),
        "corrupt",
    ),
    "OCI: members without end": ("oci-archive", lambda place: header(b"x", "0", 0) * 70_000, "limit"),
    "OCI: headers of a GiB": (
        "oci-archive",
        lambda place: header(b"x", "x", 1 << 30) + bytes(512),
        "corrupt",
    ),
    "OCI: compressed as a whole": ("oci-archive", lambda place: b"\x1f\x8b" + bytes(600), "unsupported"),
    "docker: a configuration outside": ("docker-archive", docker(Config="{out}"), "not-found"),
    "docker: a layer outside": ("docker-archive", docker(Layers=["../../../../../../{out}"]), "not-found"),
    "docker: a layer that is the archive's directory": ("docker-archive", docker(Layers=["."]), "not-found"),
    "docker: more layers than file systems stack": ("docker-archive", docker(Layers=["x"] * 5000), "limit"),
    "docker: layers that are numbers": ("docker-archive", docker(Layers=[1]), "corrupt"),
}


CASES: list[Case] = [
    *(
        refused(f"tar: {name}", words, apply(packed(members)), also=untouched)
        for name, (members, words) in REFUSED.items()
    ),
    harmless("tar: ways out of the root", apply(escaping), also=untouched),
    harmless(
        "tar: names that are escapes",
        apply(lambda place: pack([f(f"a{ESCAPES}", xattrs={f"other.{ESCAPES}": b"v"}), sym("l", ESCAPES)])),
    ),
    refused("tar: a type that is an escape", "type", apply(lambda place: pack([Member("a\x1b[2J", "\x1b")]))),
    refused(
        "tar: a size that is an escape",
        "size",
        apply(lambda place: pack([with_header(124, b"\x1b[2J\x1b[31mx\0", f("a"))])),
    ),
    *(
        refused(f"archive of {name}", words, image_archive(kind, make), also=untouched)
        for name, (kind, make, words) in ARCHIVES.items()
    ),
]
