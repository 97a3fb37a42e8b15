"""What a copy asks of both places: each blob once, manifests last, and what a failure leads to."""

import io
import threading
from dataclasses import replace
from typing import BinaryIO, cast

import pytest

from obd.convert.publish import carry
from obd.errors import ObdError
from obd.oci import (
    Content,
    Descriptor,
    ImageDestination,
    ImageSource,
    Index,
    Manifest,
    Platform,
    Progress,
    media,
)
from obd.oci import copy as copying
from obd.oci.copy import copy
from obd.oci.limits import MAX_INDEX_DEPTH

CONFIG = b"{}"
LAYERS = [bytes([number]) * 100 for number in range(3)]
IMAGE = Manifest(
    Descriptor.of(CONFIG, media.OCI_CONFIG),
    tuple(Descriptor.of(layer, media.OCI_LAYER) for layer in (*LAYERS, LAYERS[0])),
)


class Memory(ImageSource):
    """A source of what is put into it. `fails` has what `blob` raises by digest, one after the other."""

    name = "memory"

    def __init__(self, root: Manifest | Index, *others: Manifest | Index) -> None:
        self._root = root.descriptor()
        self._known = {one.descriptor().digest: one.encode() for one in (root, *others)}
        self._known |= {Descriptor.of(data, "").digest: data for data in (CONFIG, *LAYERS)}
        self.fails: dict[str, list[OSError]] = {}
        self.asked: list[str] = []

    def root(self) -> tuple[Descriptor, bytes]:
        return self._root, self.manifest(self._root)

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._known[descriptor.digest]

    def blob(self, descriptor: Descriptor) -> BinaryIO:
        self.asked.append(descriptor.digest)
        if fails := self.fails.get(descriptor.digest):
            raise fails.pop(0)
        return cast(BinaryIO, io.BytesIO(self._known[descriptor.digest]))


class Shelf(ImageDestination):
    """A destination that remembers what it was asked; it mounts what is in `mounts`."""

    name, tag = "shelf", "v1"

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.mounts: set[str] = set()
        self.manifests: list[tuple[str, str | None]] = []

    def has_blob(self, descriptor: Descriptor) -> bool:
        return descriptor.digest in self.blobs

    def mount_blob(self, descriptor: Descriptor, source: ImageSource) -> bool:
        return descriptor.digest in self.mounts

    def put_blob(self, descriptor: Descriptor, content: Content, progress: Progress | None = None) -> None:
        assert not isinstance(content, str | bytes) and progress and not self.manifests
        self.blobs[descriptor.digest] = content.read()
        progress(descriptor.size, descriptor.size)

    def put_manifest(self, descriptor: Descriptor, data: bytes, tag: str | None) -> None:
        self.manifests.append((descriptor.digest, tag))

    def manifest(self, reference: str) -> bytes | None:
        return None

    def close(self) -> None:
        """Nothing."""

    def discard(self) -> None:
        """Nothing."""


class Watch:
    """Remembers the last state of each blob."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.ticks = 0

    def blob(self, blob: Descriptor, state: str, done: int) -> None:
        self.states[blob.digest] = state

    def tick(self) -> None:
        self.ticks += 1


def run(source: Memory, shelf: Shelf, wanted: Platform | None = None, jobs: int = 2) -> dict[str, str]:
    watch = Watch()
    copy(source, shelf, wanted, jobs=jobs, watch=watch)
    return watch.states


def test_each_blob_once_and_then_the_manifest() -> None:
    source, shelf = Memory(IMAGE), Shelf()
    shelf.blobs[IMAGE.layers[1].digest] = LAYERS[1]
    shelf.mounts.add(IMAGE.layers[2].digest)
    states = run(source, shelf)
    first, second, third, _ = (layer.digest for layer in IMAGE.layers)
    config = IMAGE.config.digest
    assert states == {first: "copied", second: "there", third: "mounted", config: "copied"}
    assert sorted(source.asked) == sorted([first, config])
    assert shelf.manifests == [(IMAGE.descriptor().digest, "v1")]


def test_an_index_comes_after_all_that_it_names() -> None:
    other = replace(IMAGE, annotations={"a": "b"})
    index = Index((IMAGE.descriptor(), other.descriptor(), IMAGE.descriptor()))
    shelf = Shelf()
    run(Memory(index, IMAGE, other), shelf)
    names = [IMAGE.descriptor().digest, other.descriptor().digest]
    assert shelf.manifests == [(names[0], None), (names[1], None), (index.descriptor().digest, "v1")]


def test_layers_that_registries_do_not_hold_are_left_where_they_are() -> None:
    foreign = replace(IMAGE.layers[1], media_type=media.FOREIGN[0], extra={"urls": ["https://elsewhere"]})
    image = replace(IMAGE, layers=(IMAGE.layers[0], foreign))
    shelf = Shelf()
    run(Memory(image), shelf)
    assert foreign.digest not in shelf.blobs and len(shelf.blobs) == 2


@pytest.mark.parametrize(("kind", "attempts"), [("io", 3), ("timed-out", 3), ("corrupt", 2), ("denied", 1)])
def test_a_blob_is_tried_again_if_that_may_help(kind: str, attempts: int) -> None:
    digest = IMAGE.layers[1].digest
    source, shelf = Memory(IMAGE), Shelf()
    source.fails[digest] = [ObdError(kind, f"failure {number}") for number in range(attempts - 1)]
    run(source, shelf)
    assert source.asked.count(digest) == attempts
    source, shelf = Memory(IMAGE), Shelf()
    source.fails[digest] = [ObdError(kind, f"failure {number}") for number in range(attempts)]
    with pytest.raises(ObdError, match=f"failure {attempts - 1}"):
        run(source, shelf)
    assert shelf.manifests == []


def test_a_failure_while_others_are_under_way() -> None:
    class Slow(Memory):
        """Gives one blob only when the other has failed."""

        failed = threading.Event()

        def blob(self, descriptor: Descriptor) -> BinaryIO:
            if descriptor == IMAGE.layers[0]:
                assert self.failed.wait(20)
            elif descriptor == IMAGE.layers[1]:
                self.failed.set()
                raise ObdError("denied", "no")
            return super().blob(descriptor)

    source, shelf = Slow(IMAGE), Shelf()
    with pytest.raises(ObdError, match="denied: no"):
        run(source, shelf)
    assert shelf.manifests == []


def test_indexes_in_indexes_have_an_end() -> None:
    levels: list[Manifest | Index] = [IMAGE]
    for _ in range(MAX_INDEX_DEPTH):
        levels.insert(0, Index((levels[0].descriptor(),)))
    shelf = Shelf()
    run(Memory(*levels), shelf)
    assert len(shelf.manifests) == MAX_INDEX_DEPTH + 1
    shelf = Shelf()
    run(Memory(*levels), shelf, Platform("linux", "amd64"))
    assert shelf.manifests == [(IMAGE.descriptor().digest, "v1")]
    levels.insert(0, Index((levels[0].descriptor(),)))
    for wanted in (None, Platform("linux", "amd64")):
        with pytest.raises(ObdError) as caught:
            run(Memory(*levels), Shelf(), wanted)
        assert caught.value.kind == "limit"


def fan(levels: int, width: int) -> list[Index]:
    """Indexes that name the ones below `width` times; the outermost first."""
    found = [Index(())]
    for _ in range(levels):
        found.insert(0, Index((found[0].descriptor(),) * width))
    return found


def test_manifests_of_one_name_have_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy holds them all until the blobs are there."""
    root = fan(1, 2)
    size = sum(len(one.encode()) for one in root)
    monkeypatch.setattr(copying, "MAX_MANIFESTS_BYTES", size)
    run(Memory(*root), Shelf())
    monkeypatch.setattr(copying, "MAX_MANIFESTS_BYTES", size - 1)
    with pytest.raises(ObdError, match="manifests of more than"):
        run(Memory(*root), Shelf())


def test_what_is_carried_beside_a_conversion_is_carried_once() -> None:
    levels = fan(MAX_INDEX_DEPTH, 100)
    shelf = Shelf()
    carry(Memory(*levels), shelf, levels[0].descriptor())
    assert [digest for digest, _ in shelf.manifests] == [one.descriptor().digest for one in levels[::-1]]
    levels = fan(MAX_INDEX_DEPTH + 1, 1)
    with pytest.raises(ObdError, match="limit: "):
        carry(Memory(*levels), shelf, levels[0].descriptor())
