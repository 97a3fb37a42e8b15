"""Layers held against hash trees: whoever sends or keeps other bytes is noticed before anybody reads them."""

import hashlib
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import obdcore
from obd.config import parse_image, parse_service
from obd.errors import ObdError
from obd.image import Device, open_device
from obd.service import Service
from tests.e2e import servers
from tests.ref import zfile_ref
from tests.ref.merkle_ref import leaves_of, root_of

DEVICE_BYTES: Final = 4 << 20
CONTENT: Final = random.Random(3).randbytes(DEVICE_BYTES)
LEAF: Final = 65536
# Of three bytes, and of so many zeros that the last leaf has one of them.
GOLDEN_ABC: Final = "9a1d0be361e39332ebaad06178873959b9d8d602eb6a64be9efc2c468a933d58"
GOLDEN_ZEROS: Final = "13583d7ce65c126cda861465c3f0c630068ee33e7d95dd0f3c3d05941820b8d5"


class Store:
    """Blobs that servers give by ranges; a server's lie changes what it says a blob is."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []

    def add(self, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = data
        return digest

    def handler(self, lies: dict[str, bytes]) -> type[servers.QuietHandler]:
        store = self

        class Handler(servers.QuietHandler):
            def do_GET(self) -> None:
                digest = self.path.rpartition("/")[2]
                store.asked.append(digest)
                data = lies.get(digest) or store.blobs.get(digest)
                if data is None:
                    self.answer(404)
                    return
                first, last = (int(word) for word in self.headers["Range"].removeprefix("bytes=").split("-"))
                body = data[first : last + 1]
                place = f"bytes {first}-{first + len(body) - 1}/{len(data)}"
                self.answer(206, body, {"Content-Range": place})

        return Handler


class Layer:
    """A layer of random content in a zfile, its tree, and how a liar would change it."""

    def __init__(self, home: Path, store: Store) -> None:
        self.store = store
        data, index = str(home / "data"), str(home / "index")
        obdcore.lsmt_create(data, index, size=DEVICE_BYTES)
        image = obdcore.Image([], (data, index))
        image.write_at(0, CONTENT)
        image.close()
        self.path = home / "layer"
        with self.path.open("xb") as file:
            obdcore.lsmt_commit(data, index, file.fileno(), compress={"algorithm": "lz4"}, tar=True)
        self.bytes = self.path.read_bytes()
        self.digest = store.add(self.bytes)
        builder = obdcore.MerkleBuilder()
        builder.update(self.bytes)
        self.leaves, self.root = builder.finish()
        self.leaves_digest = store.add(self.leaves)

    @property
    def merkle(self) -> dict[str, Any]:
        root = f"sha256:{self.root}"
        return {"root": root, "leaves": self.leaves_digest, "size": len(self.leaves)}

    @property
    def lie(self) -> bytes:
        """Other bytes of the same length: one of the content, with the checksum of its block made right."""
        start = obdcore.layer_info(str(self.path))["tar"]["offset"]
        zfile = self.bytes[start : start + obdcore.layer_info(str(self.path))["tar"]["size"]]
        last = zfile_ref.header(zfile[-zfile_ref.HEADER :])
        table = zfile[last.index_offset : -zfile_ref.HEADER]
        lengths = [length for (length,) in struct.iter_unpack("<I", table)]
        number = len(lengths) * 3 // 4
        at = start + zfile_ref.HEADER + sum(lengths[:number])
        # Random bytes are literals: any byte in their middle can be another.
        block = bytearray(self.bytes[at : at + lengths[number] - 4])
        block[len(block) // 2] ^= 1
        new = block + struct.pack("<I", zfile_ref.crc(bytes(block), zfile_ref.BLOCK_START))
        return self.bytes[:at] + new + self.bytes[at + len(new) :]


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    return Layer(tmp_path_factory.mktemp("layer"), Store())


@pytest.fixture(scope="module")
def lie(layer: Layer) -> bytes:
    return layer.lie


@pytest.fixture
def honest(layer: Layer) -> Iterator[str]:
    with servers.serving(layer.store.handler({})) as url:
        yield url


@pytest.fixture
def lying(layer: Layer, lie: bytes) -> Iterator[str]:
    with servers.serving(layer.store.handler({layer.digest: lie})) as url:
        yield url


Open = Callable[..., Device]


@pytest.fixture(params=["file", "ocf", "small", "none"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, layer: Layer) -> Iterator[Open]:
    """Opens the layer of a registry as a device; the cache is of each kind there is."""
    devices: list[Device] = []
    directory = tmp_path / "cache"
    cache: dict[str, Any] = {"cacheType": "file", "cacheDir": str(directory), "cacheSizeGB": 1}
    if request.param == "ocf":
        cache |= {"cacheType": "ocf", "blockSize": 4096, "refillSize": 16384}
    elif request.param == "small":
        cache |= {"refillSize": 4096}
    elif request.param == "none":
        cache["cacheType"] = "download"

    def open_it(url: str, mode: str = "on", merkle: dict[str, Any] | None = None, **more: object) -> Device:
        lower: dict[str, Any] = {"digest": layer.digest, "size": len(layer.bytes)}
        if merkle != {}:
            lower["merkle"] = merkle or layer.merkle
        config = {"repoBlobUrl": f"{url}/v2/team/app/blobs", "lowers": [lower]}
        settings = {"cacheConfig": cache, "verifyChunks": mode, "outageTimeout": 0, **more}
        device = open_device(parse_image(config), Service(parse_service(settings)))
        devices.append(device)
        return device

    yield open_it
    for device in devices:
        device.close()


def read_all(device: Device) -> bytes:
    return device.read(0, DEVICE_BYTES)


def test_the_tree_is_that_of_the_document(layer: Layer) -> None:
    """Against the second implementation, which is written from the format alone."""
    for data in (b"x", b"y" * LEAF, CONTENT[: LEAF + 1], CONTENT[: 7 * LEAF], layer.bytes):
        builder = obdcore.MerkleBuilder()
        for at in range(0, len(data), 10_007):
            builder.update(data[at : at + 10_007])
        found, root = builder.finish()
        assert (found, root) == (leaves_of(data), root_of(data))
        tree = obdcore.MerkleTree(found, root)
        assert (tree.size, tree.root) == (len(data), root)


def test_the_tree_of_known_bytes() -> None:
    assert root_of(b"abc") == GOLDEN_ABC
    assert root_of(bytes(3 * LEAF + 1)) == GOLDEN_ZEROS


def test_without_a_tree_a_lie_with_right_checksums_is_believed(opened: Open, lying: str) -> None:
    assert read_all(opened(lying, "off")) != CONTENT


def test_an_honest_registry_is_read(opened: Open, honest: str) -> None:
    for mode in ("off", "on", "required"):
        assert read_all(opened(honest, mode)) == CONTENT


def test_a_lying_registry_is_an_error_that_says_so(
    opened: Open, lying: str, caplog: pytest.LogCaptureFixture
) -> None:
    device = opened(lying)
    with pytest.raises(obdcore.Error, match="do not match the tree of the layer") as caught:
        read_all(device)
    assert caught.value.kind == "corrupt" and caught.value.offset is not None
    assert caught.value.offset % LEAF == 0 and str(lying) in str(caught.value)
    assert device.statistics()["layers"][0]["mismatches"] > 0
    assert any("do not match the hash tree" in record.message for record in caplog.records)
    # What it does not lie about is read.
    assert device.read(0, 1 << 20) == CONTENT[: 1 << 20]


def test_a_lying_mirror_is_left_for_the_registry(opened: Open, honest: str, lying: str) -> None:
    mirrors = {honest.removeprefix("http://"): {"mirrors": [lying]}}
    device = opened(honest, registries=mirrors)
    assert read_all(device) == CONTENT
    assert device.statistics()["layers"][0]["mismatches"] >= 1


def test_a_lying_peer_is_left_for_the_registry(
    opened: Open, honest: str, lying: str, caplog: pytest.LogCaptureFixture
) -> None:
    device = opened(honest, p2pConfig={"enable": True, "address": f"{lying}/accelerator"})
    assert read_all(device) == CONTENT
    assert device.statistics()["layers"][0]["mismatches"] >= 1
    assert any("P2P proxy" in r.message and "hash tree" in r.message for r in caplog.records)


def test_leaves_that_do_not_come_down_to_the_root_are_refused(opened: Open, layer: Layer) -> None:
    other = bytearray(layer.leaves)
    other[40] ^= 1
    with servers.serving(layer.store.handler({layer.leaves_digest: bytes(other)})) as url:
        for mode in ("on", "required"):
            with pytest.raises(ObdError, match="does not come down to the root"):
                opened(url, mode)
        assert read_all(opened(url, "off")) == CONTENT


def test_leaves_that_nobody_has(opened: Open, honest: str, layer: Layer) -> None:
    nowhere = {**layer.merkle, "leaves": f"sha256:{'0' * 64}"}
    assert read_all(opened(honest, "on", nowhere)) == CONTENT
    with pytest.raises(ObdError, match="leaves"):
        opened(honest, "required", nowhere)


def test_a_layer_without_a_tree(opened: Open, honest: str) -> None:
    assert read_all(opened(honest, "on", {})) == CONTENT
    with pytest.raises(ObdError, match="verifyChunks is required"):
        opened(honest, "required", {})


def test_leaves_in_a_file(opened: Open, honest: str, layer: Layer, tmp_path: Path) -> None:
    path = tmp_path / "leaves"
    path.write_bytes(layer.leaves)
    layer.store.asked.clear()
    merkle = {"root": f"sha256:{layer.root}", "file": str(path)}
    assert read_all(opened(honest, "required", merkle)) == CONTENT
    assert layer.leaves_digest not in layer.store.asked


def test_another_length_is_refused(opened: Open, honest: str, layer: Layer) -> None:
    builder = obdcore.MerkleBuilder()
    builder.update(layer.bytes[:-1])
    leaves, root = builder.finish()
    merkle = {"root": f"sha256:{root}", "leaves": layer.store.add(leaves), "size": len(leaves)}
    with pytest.raises(ObdError, match="its tree is of"):
        opened(honest, "on", merkle)


def test_a_local_file_that_rots(layer: Layer, lie: bytes, honest: str, tmp_path: Path) -> None:
    """One that was downloaded: an error, or read from the registry where it does not even open."""
    directory = tmp_path / "layer"
    directory.mkdir()
    (directory / "overlaybd.commit").write_bytes(lie)
    lower = {"dir": str(directory), "digest": layer.digest, "size": len(layer.bytes), "merkle": layer.merkle}
    config = parse_image({"repoBlobUrl": f"{honest}/v2/a/blobs", "lowers": [lower]})
    cache = {"cacheType": "file", "cacheDir": str(tmp_path / "cache")}
    for mode, found in (("off", None), ("on", "do not match the tree")):
        service = Service(parse_service({"cacheConfig": cache, "verifyChunks": mode}))
        with open_device(config, service) as device:
            assert device.sources[0].local
            assert device.read(0, 1 << 20) == CONTENT[: 1 << 20]
            if found is None:
                assert read_all(device) != CONTENT
                continue
            with pytest.raises(obdcore.Error, match=found):
                read_all(device)
    # Where the wrong bytes keep it from opening, the registry has it.
    (directory / "overlaybd.commit").write_bytes(bytes(len(lie)))
    with open_device(config, Service(parse_service({"cacheConfig": cache, "verifyChunks": "on"}))) as device:
        assert read_all(device) == CONTENT and not device.sources[0].local
