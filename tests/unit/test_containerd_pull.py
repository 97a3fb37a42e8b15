"""Images brought to containerd: what it says, and what has become of its snapshots then."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from obd.containerd.pull import Pulled, pull
from obd.errors import ObdError
from obd.oci import Descriptor, Manifest, Platform
from obd.oci.digest import chain_ids, digest_of
from obd.oci.media import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST
from obd.snapshotter import labels as L

DIFF_IDS = [digest_of(b"first"), digest_of(b"second")]


class Image:
    """A source of one image, whose layers unpack to what their names say."""

    name = "registry.example/app:v1"

    def __init__(self) -> None:
        self.config = json.dumps({"rootfs": {"type": "layers", "diff_ids": DIFF_IDS}}).encode()
        layers = tuple(Descriptor.of(diff_id.encode(), OCI_LAYER_GZIP) for diff_id in DIFF_IDS)
        self.blobs = {Descriptor.of(self.config, OCI_CONFIG).digest: self.config}
        self.blobs |= {layer.digest: DIFF_IDS[at].encode() for at, layer in enumerate(layers)}
        self.image = Manifest(Descriptor.of(self.config, OCI_CONFIG), layers)

    def root(self) -> tuple[Descriptor, bytes]:
        data = self.image.encode()
        return Descriptor.of(data, OCI_MANIFEST), data

    def blob(self, blob: Descriptor) -> Any:
        return closing(io.BytesIO(self.blobs[blob.digest]))


class Node:
    """A containerd: the committed snapshots and the active ones by key. Layers say what they unpack to."""

    def __init__(self) -> None:
        self.committed: set[str] = set()
        self.active: dict[str, str] = {}
        self.content: dict[str, bytes] = {}
        self.unpacks_to: dict[str, str] = {}
        self.on_unpacked: Callable[[], None] = lambda: None
        self.named = ""
        self.labels: list[Mapping[str, str]] = []

    @contextmanager
    def lease(self) -> Iterator[None]:
        yield

    def put(self, descriptor: Descriptor, stream: BinaryIO, labels: object) -> None:
        self.content[descriptor.digest] = stream.read()

    def apply(self, descriptor: Descriptor, mounts: object) -> str:
        self.on_unpacked()
        said = self.content[descriptor.digest].decode()
        return self.unpacks_to.get(said, said)

    def name(self, name: str, target: Descriptor, labels: object) -> None:
        self.named = name

    def snapshots(self, method: str, snapshotter: str, **fields: Any) -> Any:
        return getattr(self, method)(**fields)

    def Stat(self, key: str) -> None:
        if key not in self.committed:
            raise ObdError("not-found", f"snapshot {key}")

    def Prepare(self, key: str, parent: str, labels: dict[str, str]) -> Any:
        self.active[key] = parent
        self.labels.append(labels)
        return SimpleNamespace(mounts=[])

    def Commit(self, name: str, key: str, labels: dict[str, str]) -> None:
        if name in self.committed:
            raise ObdError("exists", f"snapshot {name}")
        del self.active[key]
        self.committed.add(name)

    def Remove(self, key: str) -> None:
        del self.active[key]


def pulled(node: Node, image: Image | None = None) -> Pulled:
    words = {"platform": Platform("linux", "amd64"), "snapshotter": "overlaybd"}
    return pull(node, image or Image(), Image.name, **words)  # type: ignore[arg-type]


def test_an_image_is_there_with_the_chain_of_its_layers() -> None:
    node = Node()
    found = pulled(node)
    assert (found.lazy, found.fetched, found.present) == (0, 2, 0)
    assert (node.committed, node.active) == (set(chain_ids(DIFF_IDS)), {})
    assert node.named == Image.name


def test_a_layer_that_is_not_what_the_configuration_says_is_nobodys() -> None:
    node = Node()
    node.unpacks_to[DIFF_IDS[1]] = digest_of(b"other")
    with pytest.raises(ObdError, match="as the configuration says") as caught:
        pulled(node)
    assert caught.value.kind == "corrupt"
    assert (node.committed, node.active) == ({DIFF_IDS[0]}, {})
    assert not node.named


def test_a_layer_that_another_pull_has_brought_meanwhile_is_there() -> None:
    node = Node()
    node.on_unpacked = lambda: node.committed.update(chain_ids(DIFF_IDS))
    found = pulled(node)
    assert (found.lazy, found.fetched, found.present) == (0, 0, 2)
    assert not node.active
    assert node.named == Image.name


def test_what_cannot_be_removed_hides_no_cause() -> None:
    node = Node()

    def lost() -> None:
        raise ObdError("io", "no containerd")

    def remove(key: str) -> None:
        raise ObdError("not-found", key)

    node.on_unpacked, node.Remove = lost, remove  # type: ignore[method-assign]
    with pytest.raises(ObdError, match="no containerd"):
        pulled(node)


def test_an_image_does_not_say_where_it_is_read_from() -> None:
    image, node = Image(), Node()
    layers = (
        replace(each, annotations=dict.fromkeys(L.IMAGE_REFERENCES, "elsewhere"))
        for each in image.image.layers
    )
    image.image = replace(image.image, layers=tuple(layers))
    pulled(node, image)
    told = [labels.get(name) for labels in node.labels for name in L.IMAGE_REFERENCES]
    assert told == [None, Image.name] * 2
