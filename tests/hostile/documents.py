"""Documents that lie: manifests, indexes and configurations of images, in a layout and from a registry."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from tests.e2e.faults.server import Exchange
from tests.hostile.archives import ESCAPES
from tests.hostile.case import MIB, Case, Place, harmless, refused

OCI = "application/vnd.oci.image."
MANIFEST, INDEX, CONFIG, LAYER = (
    f"{OCI}{each}" for each in ("manifest.v1+json", "index.v1+json", "config.v1+json", "layer.v1.tar")
)
OTHER = "sha256:" + "b" * 64
CONTENT = b"layer" * 100


def digest(data: bytes) -> str:
    """Its digest."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def descriptor(data: bytes, kind: str = LAYER, **more: Any) -> dict[str, Any]:
    """What names it, and what else is said."""
    return {"mediaType": kind, "digest": digest(data), "size": len(data), **more}


CONFIGURATION = json.dumps(
    {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(CONTENT)]}}
).encode()


def manifest(**more: Any) -> dict[str, Any]:
    """An image of one layer, with what else is said of it."""
    layers = [descriptor(CONTENT)]
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIGURATION, CONFIG),
        "layers": layers,
        **more,
    }


def deep(depth: int) -> bytes:
    """Lists in lists."""
    return b'{"schemaVersion":2,"layers":' + b"[" * depth + b"]" * depth + b"}"


def dumped(**more: Any) -> Callable[[Place], bytes]:
    """A manifest as it is told."""
    return lambda place: json.dumps(manifest(**more)).encode()


def raw(data: bytes) -> Callable[[Place], bytes]:
    """These bytes."""
    return lambda place: data


def pointing(place: Place) -> bytes:
    """A manifest of a right image, all of whose other words point elsewhere."""
    ways = [
        f"file://{place.decoy}",
        f"{place.canary}/layer",
        f"http://169.254.169.254/{place.decoy}",
        str(place.decoy),
    ]
    annotations = {f"containerd.io/snapshot/{n}": way for n, way in enumerate(ways)} | {
        "containerd.io/snapshot/overlaybd/blob-url": ways[1],
        "containerd.io/snapshot/overlaybd.local": ways[3],
        "org.opencontainers.image.ref.name": f"../../{place.decoy}",
        f"a{ESCAPES}": ESCAPES,
    }
    layer = descriptor(CONTENT, urls=ways, annotations=annotations)
    return json.dumps(
        manifest(layers=[layer], annotations=annotations, subject=descriptor(b"x", MANIFEST, urls=ways))
    ).encode()


DOCUMENTS: dict[str, tuple[Callable[[Place], bytes], str]] = {
    "5 MiB": (raw(b" " * (5 * MIB)), "limit"),
    "not JSON": (raw(b"<html>"), "corrupt"),
    "a list": (raw(b"[]"), "corrupt"),
    "JSON of 100000 lists": (raw(deep(100_000)), "corrupt"),
    "JSON of 500 lists": (raw(deep(500)), "corrupt"),
    "a number of 4 MiB": (raw(b'{"schemaVersion":' + b"9" * (4 * MIB - 100) + b"}"), "corrupt"),
    "a number of 1e999": (raw(b'{"schemaVersion":1e999}'), "corrupt"),
    "NaN": (raw(b'{"schemaVersion":NaN}'), "corrupt"),
    "a key twice": (raw(b'{"schemaVersion":2,"layers":[],"layers":[]}'), "corrupt"),
    "half a surrogate as key": (raw(b'{"\\ud800":1,"\\ud800":2}'), "corrupt"),
    "no UTF-8": (raw(b'{"a":"\xff\xfe"}'), "corrupt"),
    "both manifest and index": (dumped(manifests=[]), "corrupt"),
    "of a type that it is not": (dumped(mediaType=INDEX), "corrupt"),
    "of a type with escapes": (dumped(mediaType=ESCAPES), "unsupported"),
    "a layer of -1 bytes": (dumped(layers=[descriptor(CONTENT) | {"size": -1}]), "corrupt"),
    "a layer of 2^63 bytes": (dumped(layers=[descriptor(CONTENT) | {"size": 1 << 63}]), "corrupt"),
    "a layer of 1e3 bytes": (dumped(layers=[descriptor(CONTENT) | {"size": 1e3}]), "corrupt"),
    "a digest with a path": (
        dumped(layers=[descriptor(CONTENT) | {"digest": "sha256:../../../../etc/passwd"}]),
        "corrupt",
    ),
    "a digest of another kind": (
        dumped(layers=[descriptor(CONTENT) | {"digest": "md5:" + "a" * 32}]),
        "corrupt",
    ),
    "a digest in upper case": (
        dumped(layers=[descriptor(CONTENT) | {"digest": "sha256:" + "A" * 64}]),
        "corrupt",
    ),
    "a digest with a newline": (dumped(layers=[descriptor(CONTENT) | {"digest": OTHER + "\n"}]), "corrupt"),
    "100000 layers": (dumped(layers=[{}] * 100_000), "limit"),
    "layers that are none": (dumped(layers=[1, None, []]), "corrupt"),
    "a blob that is not there": (dumped(layers=[descriptor(CONTENT) | {"digest": OTHER}]), "not-found"),
    "a blob that is longer": (dumped(layers=[descriptor(CONTENT) | {"size": 9}]), "corrupt"),
    "a blob that is shorter": (dumped(layers=[descriptor(CONTENT) | {"size": 1 << 40}]), "corrupt"),
    "annotations that are none": (dumped(annotations={"a": {"b": 1}}), "corrupt"),
    "schema 1": (raw(b'{"schemaVersion":1,"fsLayers":[]}'), "unsupported"),
}


def layout(
    make: Callable[[Place], bytes], *, lie: bool = False, blobs: tuple[bytes, ...] = ()
) -> Callable[[Place], list[str]]:
    """Has it copied out of a layout; `lie`: its digest is another."""

    def command(place: Place) -> list[str]:
        data = make(place)
        told = OTHER if lie else digest(data)
        entry = {"mediaType": INDEX if b"manifests" in data else MANIFEST, "digest": told, "size": len(data)}
        place.file("in/oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        place.json("in/index.json", {"schemaVersion": 2, "manifests": [entry]})
        for name, content in [
            (told, data),
            *((digest(each), each) for each in (CONFIGURATION, CONTENT, *blobs)),
        ]:
            place.file(f"in/blobs/{name.replace(':', '/')}", content)
        return ["obd", "copy", f"oci:{place.home}/in", f"oci:{place.home}/out:x"]

    return command


def registry(make: Callable[[Place], bytes]) -> Callable[[Place], list[str]]:
    """Has a registry asked for it."""

    def command(place: Place) -> list[str]:
        data = make(place)

        def answer(exchange: Exchange) -> None:
            if "/manifests/" in exchange.path:
                exchange.answer(
                    200, [("Content-Type", MANIFEST), ("Docker-Content-Digest", digest(data))], data
                )
            else:
                name = exchange.path.rpartition("/")[2]
                body = next((each for each in (CONFIGURATION, CONTENT) if digest(each) == name), None)
                if body is None:
                    exchange.answer(404)
                    return
                first, _, last = (
                    exchange.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
                )
                part = body[int(first) : int(last or len(body)) + 1]
                where = f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"
                exchange.answer(206, [("Content-Range", where)], part)

        server = place.server(answer)
        return ["obd", "inspect", "--platform", "linux/amd64", f"http://127.0.0.1:{server.port}/a/b:c"]

    return command


def loops(place: Place) -> bytes:
    """Indexes in indexes, without end as far as it can be had."""
    data = json.dumps(manifest()).encode()
    for _ in range(20):
        place.file(f"in/blobs/{digest(data).replace(':', '/')}", data)
        kind = INDEX if b"manifests" in data else MANIFEST
        data = json.dumps(
            {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(data, kind)]}
        ).encode()
    return data


def same_content(place: Place, out: str) -> None:
    """The copy has the layer, and the words that pointed elsewhere are only words."""
    name = digest(CONTENT).replace(":", "/")
    assert (place.home / "out/blobs" / name).read_bytes() == CONTENT


# What only reading a blob would find.
OF_BLOBS = ("a blob that is not there", "a blob that is longer", "a blob that is shorter")
CASES: list[Case] = [
    *(
        refused(f"manifest: {name}: in a layout", words, layout(make))
        for name, (make, words) in DOCUMENTS.items()
    ),
    *(
        refused(f"manifest: {name}: of a registry", words, registry(make))
        for name, (make, words) in DOCUMENTS.items()
        if name not in OF_BLOBS
    ),
    refused("manifest: of another digest", "corrupt", layout(dumped(), lie=True)),
    refused("manifest: indexes in indexes", "limit", layout(loops)),
    harmless("manifest: words that point elsewhere: in a layout", layout(pointing), check=same_content),
    harmless("manifest: words that point elsewhere: of a registry", registry(pointing)),
]
