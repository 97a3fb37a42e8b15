"""Traces, indexes of gzip files and metadata of turboOCI that lie."""

import json
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import obdcore
from obd.oci.layers import BLOB_DIGEST, BLOB_SIZE, TARGET_DIGEST, TARGET_MEDIA_TYPE, TURBO_VERSION, VERSION
from tests.e2e.faults.server import Exchange
from tests.hostile.archives import linked, tarred, untouched
from tests.hostile.case import MIB, Case, Place, harmless, refused
from tests.hostile.disks import patched, u32, u64
from tests.hostile.documents import CONFIG, MANIFEST, descriptor
from tests.ref import trace_ref

DEVICE_BYTES = 8 * MIB
TARGET_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
CONTENT = bytes(range(256)) * (3 * MIB // 256)


def show(make: Callable[[], bytes]) -> Callable[[Place], list[str]]:
    """Has a trace shown."""
    return lambda place: ["obd", "trace", "show", place.file("trace", make())]


def trace(*records: tuple[int, int, int]) -> bytes:
    """A trace."""
    return trace_ref.write(list(records))


ONE = (0, 0, 4096)
TRACES: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "2^64-1 bytes": (lambda: patched(trace(ONE), u64(8, (1 << 64) - 1)), "corrupt"),
    "half a record": (lambda: patched(trace(ONE)[:-12], u64(8, 12)), "corrupt"),
    "a wrong checksum": (lambda: patched(trace(ONE), u32(16, 7)), "corrupt"),
    "cut in its header": (lambda: trace(ONE)[:23], None),
    "places before the start": (lambda: trace((0, -(1 << 63), 4096)), None),
    "lengths of 2^64-1": (lambda: trace((0, 0, (1 << 64) - 1)), None),
    "layer 2^32-1": (lambda: trace((0xFFFFFFFF, 0, 4096)), None),
    "one record a thousand times": (lambda: trace(*[ONE] * 1000), None),
}


@cache
def parts(_: None = None) -> tuple[bytes, bytes, bytes]:
    """Target, index and metadata of a layer of turboOCI."""
    with tempfile.TemporaryDirectory() as home:
        target, index, meta = (Path(home) / name for name in ("target", "gzip.meta", "fs.meta"))
        packer = zlib.compressobj(1, wbits=31)
        target.write_bytes(packer.compress(CONTENT) + packer.flush())
        with target.open("rb") as source, index.open("xb") as output:
            obdcore.gzip_index(source.fileno(), output.fileno())
        upper = str(Path(home) / "data"), str(Path(home) / "index")
        obdcore.lsmt_create(*upper, size=DEVICE_BYTES, turbo=True)
        nothing = Path(home) / "nothing"
        nothing.touch()
        image = obdcore.Image([], (*upper, str(nothing)))
        image.map_remote(0, len(CONTENT), 0)
        image.write_at(len(CONTENT), bytes(512))
        image.close()
        with meta.open("xb") as output:
            obdcore.lsmt_commit(*upper, output.fileno(), turbo=True, compress={"algorithm": "lz4"})
        return target.read_bytes(), index.read_bytes(), meta.read_bytes()


def lying(*patches: tuple[int, bytes], cut: int = 0) -> Callable[[], bytes]:
    """An index that lies, and has the right checksum."""

    def make() -> bytes:
        made = patched(parts()[1], *patches)
        made = made[: len(made) - cut]
        return patched(made, u32(329, trace_ref.crc32c_raw(made[:329])))

    return make


def verified(
    index: Callable[[], bytes], target: Callable[[], bytes] = lambda: parts()[0]
) -> Callable[[Place], list[str]]:
    """Has all of a layer read by that index."""

    def command(place: Place) -> list[str]:
        files = {"file": parts()[2], "gzipIndex": index(), "targetFile": target()}
        lower = {key: place.file(key, data) for key, data in files.items()}
        config = place.json("image.json", {"lowers": [lower]})
        return ["obd", "export", config, str(place.home / "made")]

    return command


def bomb() -> bytes:
    """A gzip of 128 MiB of zeros, in place of what was indexed."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(MIB)) for _ in range(128)) + packer.flush()


INDEXES: dict[str, tuple[Callable[[], bytes], str]] = {
    "of another version": (lying((8, b"\x09")), "unsupported"),
    "stored in another way": (lying((10, b"\x09")), "unsupported"),
    "windows of 2^32-1": (lying(u32(17, 0xFFFFFFFF)), "unsupported"),
    "points of 0 bytes": (lying(u32(21, 0)), "unsupported"),
    "2^64-1 points": (lying(u64(25, (1 << 64) - 1)), "limit"),
    "2^60 points": (lying(u64(25, 1 << 60)), "limit"),
    "of a file of 2^63 bytes": (lying(u64(33, 1 << 63)), "limit"),
    "itself of 2^63 bytes": (lying(u64(41, 1 << 63)), "corrupt"),
    "2^63 bytes unpacked": (lying(u64(49, 1 << 63)), "limit"),
    "points beyond the end": (lying(u64(313, 1 << 62)), "corrupt"),
    "points of 2^63 bytes": (lying(u64(321, 1 << 63)), "corrupt"),
    "cut in its points": (lying(cut=9), "corrupt"),
    "a wrong checksum": (lambda: patched(parts()[1], u32(329, 1)), "corrupt"),
}


def archive(**members: bytes | tarfile.TarInfo) -> bytes:
    """Metadata as it is in a registry: gzip of a tar."""
    packer = zlib.compressobj(6, wbits=31)
    named = {name.replace("_", "."): content for name, content in members.items()}
    return packer.compress(tarred({".turbo.ociv1": b"", **named})) + packer.flush()


def bomb_of_metadata() -> bytes:
    """64 GiB by its header, of which 64 MiB of zeros are there."""
    info = tarfile.TarInfo("ext4.fs.meta")
    info.size = 64 << 30
    packer = zlib.compressobj(9, wbits=31)
    made = packer.compress(info.tobuf(tarfile.GNU_FORMAT))
    return made + b"".join(packer.compress(bytes(MIB)) for _ in range(64)) + packer.flush()


def turbo(make: Callable[[Place], bytes]) -> Callable[[Place], list[str]]:
    """Has an image with that metadata made ready to be opened."""

    def command(place: Place) -> list[str]:
        data = make(place)
        target, configuration = descriptor(parts()[0]), descriptor(b'{"architecture":"amd64","os":"linux"}')
        layer = descriptor(data)
        layer["annotations"] = {
            **{VERSION: TURBO_VERSION, BLOB_DIGEST: layer["digest"], BLOB_SIZE: str(layer["size"])},
            **{TARGET_DIGEST: target["digest"], TARGET_MEDIA_TYPE: TARGET_TYPE},
        }
        told = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": [layer]}
        document = json.dumps({**told, "config": {**configuration, "mediaType": CONFIG}}).encode()

        def answer(exchange: Exchange) -> None:
            if "/manifests/" in exchange.path:
                exchange.answer(200, [("Content-Type", MANIFEST)], document)
            elif exchange.path.endswith(layer["digest"]):
                exchange.answer(200, body=data)
            else:
                exchange.answer(404)

        image = f"http://127.0.0.1:{place.server(answer).port}/a/b:c"
        words = ["--config", str(place.home / "made.json"), "--dir", str(place.home / "metas")]
        return ["obd", "pull", "--platform", "linux/amd64", *words, image]

    return command


METADATA: dict[str, tuple[Callable[[Place], bytes], str]] = {
    "no archive": (lambda place: b"word", "corrupt"),
    "nothing in it": (lambda place: archive(), "corrupt"),
    "links out": (lambda place: archive(ext4_fs_meta=linked("ext4.fs.meta", str(place.decoy))), "corrupt"),
    "hard links out": (
        lambda place: archive(ext4_fs_meta=linked("ext4.fs.meta", f"../..{place.decoy}", tarfile.LNKTYPE)),
        "corrupt",
    ),
    "no index": (lambda place: archive(ext4_fs_meta=parts()[2]), "corrupt"),
    "64 GiB": (lambda place: bomb_of_metadata(), "limit"),
    "cut": (lambda place: archive(ext4_fs_meta=parts()[2], gzip_meta=parts()[1])[:-100], "corrupt"),
}


def nothing_is_made(place: Place) -> None:
    """No output, half or whole; and what only the image names is what it was."""
    assert not list(place.home.glob("*made*"))
    untouched(place)


def right_content(place: Place, out: str) -> None:
    """A lie that nothing depends on."""
    assert (place.home / "made").read_bytes()[: len(CONTENT)] == CONTENT


CASES: list[Case] = [
    *(
        harmless(f"trace: {name}", show(make))
        if words is None
        else refused(f"trace: {name}", words, show(make))
        for name, (make, words) in TRACES.items()
    ),
    harmless("gzip index: a span of 1", verified(lying(u32(13, 1))), check=right_content),
    *(
        refused(f"gzip index: {name}", words, verified(make), also=nothing_is_made)
        for name, (make, words) in INDEXES.items()
    ),
    refused(
        "gzip index: of another gzip, a bomb",
        "corrupt",
        verified(lambda: parts()[1], bomb),
        also=nothing_is_made,
    ),
    *(
        refused(f"metadata: {name}", words, turbo(make), also=nothing_is_made)
        for name, (make, words) in METADATA.items()
    ),
]
