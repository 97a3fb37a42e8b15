"""Manifests and indexes: what is read of good ones, and what is said of bad ones."""

import json
import os
import random
from typing import Any

import pytest

from obd.errors import ObdError
from obd.oci import Descriptor, Index, Manifest, Platform, limits, media, parse_manifest
from obd.oci.layers import layer_kind

DIGEST = "sha256:" + "a" * 64
LAYER = {"mediaType": media.OCI_LAYER_GZIP, "digest": DIGEST, "size": 7}
CONFIG = {"mediaType": media.OCI_CONFIG, "digest": "sha512:" + "b" * 128, "size": 2}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": media.OCI_MANIFEST,
    "artifactType": "application/vnd.test",
    "config": CONFIG,
    "layers": [{**LAYER, "annotations": {"b": "2", "a": "ä"}, "urls": ["https://elsewhere"]}],
    "subject": {"mediaType": media.OCI_MANIFEST, "digest": DIGEST, "size": 9},
    "annotations": {"k": "v"},
    "other": {"kept": [1, 2.5, None]},
}
ENTRY = {
    "mediaType": media.OCI_MANIFEST,
    "digest": DIGEST,
    "size": 5,
    "platform": {"architecture": "arm", "os": "linux", "variant": "v7", "os.version": "1"},
}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [ENTRY]}


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


def without(document: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}


def test_a_manifest_is_read_with_all_that_it_says() -> None:
    found = parse_manifest(encoded(MANIFEST))
    assert isinstance(found, Manifest)
    assert found.config == Descriptor(media.OCI_CONFIG, "sha512:" + "b" * 128, 2)
    (layer,) = found.layers
    assert (layer.size, layer.annotations["a"], layer.extra) == (7, "ä", {"urls": ["https://elsewhere"]})
    assert found.subject and found.subject.size == 9
    assert (found.artifact_type, found.annotations) == ("application/vnd.test", {"k": "v"})


@pytest.mark.parametrize("document", [MANIFEST, INDEX], ids=["manifest", "index"])
def test_written_again_nothing_is_lost_and_the_bytes_are_always_the_same(document: dict[str, Any]) -> None:
    found = parse_manifest(encoded(document))
    assert json.loads(found.encode()) == document
    shuffled = json.dumps(dict(reversed(document.items())), indent=3).encode()
    assert parse_manifest(shuffled).encode() == found.encode()
    assert parse_manifest(found.encode()) == found
    assert found.descriptor().size == len(found.encode())


def test_the_media_type_may_come_from_outside() -> None:
    bare = encoded(without(MANIFEST, "mediaType"))
    assert parse_manifest(bare).media_type == media.OCI_MANIFEST
    assert parse_manifest(bare, media.DOCKER_MANIFEST).media_type == media.DOCKER_MANIFEST
    assert parse_manifest(bare, "application/json; charset=utf-8").media_type == media.OCI_MANIFEST
    lists = encoded({**INDEX, "mediaType": media.DOCKER_LIST})
    assert parse_manifest(lists, f"{media.DOCKER_LIST}; charset=utf-8").media_type == media.DOCKER_LIST


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [("linux/arm64", 1), ("linux/arm64/v8", 1), ("linux/arm/v7", 0), ("linux/arm", 0), ("linux/amd64", None)],
)
def test_an_index_gives_the_image_for_a_platform(wanted: str, chosen: int | None) -> None:
    other = {**ENTRY, "platform": {"os": "linux", "architecture": "arm64"}}
    unknown = {**ENTRY, "platform": {"os": "unknown", "architecture": "unknown"}}
    index = parse_manifest(encoded({**INDEX, "manifests": [ENTRY, other, unknown]}))
    assert isinstance(index, Index)
    if chosen is not None:
        assert index.choose(Platform.parse(wanted)) is index.manifests[chosen]
        return
    with pytest.raises(ObdError, match=r"no image for linux/amd64; there are: linux/arm/v7, linux/arm64$"):
        index.choose(Platform.parse(wanted))


BAD: dict[str, tuple[str, object]] = {
    "text": ("corrupt", "manifest"),
    "list": ("corrupt", [MANIFEST]),
    "schema 1": ("unsupported", {"schemaVersion": 1, "fsLayers": []}),
    "no schema": ("corrupt", without(MANIFEST, "schemaVersion")),
    "true for a schema": ("corrupt", {**MANIFEST, "schemaVersion": True}),
    "both": ("corrupt", {**MANIFEST, "manifests": []}),
    "an index by name": ("corrupt", {**MANIFEST, "mediaType": media.OCI_INDEX}),
    "a manifest by name": ("corrupt", {**INDEX, "mediaType": media.DOCKER_MANIFEST}),
    "no image": ("unsupported", {**MANIFEST, "mediaType": "application/vnd.acme"}),
    "media type 7": ("corrupt", {**MANIFEST, "mediaType": 7}),
    "no layers": ("corrupt", without(MANIFEST, "layers")),
    "layers for an object": ("corrupt", {**MANIFEST, "layers": {}}),
    "many layers": ("limit", {**MANIFEST, "layers": [LAYER] * (limits.MAX_LAYERS + 1)}),
    "many manifests": ("limit", {**INDEX, "manifests": [ENTRY] * (limits.MAX_MANIFESTS + 1)}),
    "a layer of text": ("corrupt", {**MANIFEST, "layers": ["layer"]}),
    "no config": ("corrupt", without(MANIFEST, "config")),
    "no digest": ("corrupt", {**MANIFEST, "config": without(CONFIG, "digest")}),
    "size of text": ("corrupt", {**MANIFEST, "config": {**CONFIG, "size": "2"}}),
    "size true": ("corrupt", {**MANIFEST, "config": {**CONFIG, "size": True}}),
    "size 1.0": ("corrupt", {**MANIFEST, "config": {**CONFIG, "size": 1.0}}),
    "size -1": ("corrupt", {**MANIFEST, "config": {**CONFIG, "size": -1}}),
    "size 1 << 63": ("corrupt", {**MANIFEST, "config": {**CONFIG, "size": 1 << 63}}),
    "annotations of numbers": ("corrupt", {**MANIFEST, "annotations": {"a": 1}}),
    "annotations as a list": ("corrupt", {**MANIFEST, "annotations": ["a"]}),
    "a subject that is none": ("corrupt", {**MANIFEST, "subject": []}),
    "platform of text": ("corrupt", {**INDEX, "manifests": [{**ENTRY, "platform": "linux"}]}),
    "deep": ("corrupt", {**MANIFEST, "x": json.loads("[" * 100 + "]" * 100)}),
}
BAD |= {
    f"digest {digest[:20]}": ("corrupt", {**MANIFEST, "layers": [{**LAYER, "digest": digest}]})
    for digest in ("", "sha256:", "sha256:" + "A" * 64, "sha256:../" + "a" * 61, "md5:" + "a" * 32, "a" * 71)
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_one_short_line(name: str) -> None:
    kind, document = BAD[name]
    with pytest.raises(ObdError) as caught:
        parse_manifest(encoded(document), where="registry/image")
    assert caught.value.kind == kind
    assert caught.value.line.startswith(f"{kind}: registry/image: ")
    assert "\n" not in caught.value.line and len(caught.value.line) < 300


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"{" * 100_000,
        b'{"a":' * 100_000,
        b'{"schemaVersion":2,"schemaVersion":2}',
        b'{"schemaVersion":NaN}',
        b'{"schemaVersion":1e999}',
        b'{"schemaVersion":' + b"9" * 10_000 + b"}",
        encoded(MANIFEST) + b"}",
        b" " * (limits.MAX_MANIFEST_BYTES + 1),
    ],
    ids=range(10),
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ObdError):
        parse_manifest(data)


def test_what_a_layer_is() -> None:
    prefix = "containerd.io/snapshot/overlaybd/"
    kinds = {
        "gzip": LAYER,
        "zstd": {**LAYER, "mediaType": media.OCI_LAYER_ZSTD},
        "tar": {**LAYER, "mediaType": media.DOCKER_LAYER},
        "overlaybd": {**LAYER, "annotations": {f"{prefix}blob-digest": DIGEST}},
        "turboOCI": {**LAYER, "annotations": {f"{prefix}fastoci/target-digest": DIGEST}},
        "unknown": {**LAYER, "mediaType": "application/wasm"},
    }
    assert {name: layer_kind(Descriptor.from_json(layer)) for name, layer in kinds.items()} == {
        name: name for name in kinds
    }


def mutated(chance: random.Random, value: Any) -> Any:
    """`value` with something in it changed to anything."""
    odd: list[Any] = [
        None,
        True,
        -1,
        1 << 70,
        0.5,
        "",
        "sha256:x",
        "\ud800",
        [],
        {},
        [[]],
        {"": {}},
        DIGEST,
        media.OCI_INDEX,
    ]
    if chance.random() < 0.15:
        return chance.choice(odd)
    if isinstance(value, dict) and value:
        key = chance.choice(list(value))
        action = chance.random()
        if action < 0.1:
            return without(value, key)
        if action < 0.2:
            return {**value, chance.choice([*MANIFEST, *INDEX, *LAYER, "x"]): chance.choice(odd)}
        return {**value, key: mutated(chance, value[key])}
    if isinstance(value, list) and value:
        at = chance.randrange(len(value))
        return [*value[:at], mutated(chance, value[at]), *value[at:]]
    return chance.choice(odd)


def test_whatever_comes_is_read_or_refused() -> None:
    """Nothing but `ObdError` ever comes out, and what is taken is the same when read again."""
    chance = random.Random(int(os.environ.get("PROPTEST_RNG_SEED", "1")))
    taken = 0
    for _ in range(4000):
        document: Any = chance.choice([MANIFEST, INDEX])
        for _ in range(chance.randrange(1, 4)):
            document = mutated(chance, document)
        data = encoded(document)
        if chance.random() < 0.2:
            at = chance.randrange(len(data))
            data = data[:at] + chance.randbytes(chance.randrange(3)) + data[at + chance.randrange(3) :]
        kind = chance.choice(["", media.OCI_INDEX, media.DOCKER_MANIFEST])
        try:
            found = parse_manifest(data, kind)
        except ObdError:
            continue
        taken += 1
        assert parse_manifest(found.encode()) == found
    assert taken > 100
