"""Which layers of an image a device is made of, and which image of an index."""

from dataclasses import replace

import pytest

from obd.errors import ObdError
from obd.manifest import overlaybd_layers
from obd.oci import Descriptor, Index, Manifest, Platform
from obd.oci.layers import ACCELERATION, BLOB_DIGEST, NATIVE_ARTIFACT, TARGET_DIGEST, TURBO_ARTIFACT
from obd.oci.media import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
LONG = "sha512:" + "d" * 128
HERE = Platform("linux", "amd64")

NATIVE = Descriptor(OCI_LAYER, A, 10, {BLOB_DIGEST: A})
TURBO = Descriptor(OCI_LAYER_GZIP, B, 10, {TARGET_DIGEST: A})
ORDINARY = Descriptor(OCI_LAYER_GZIP, C, 10)


class Image:
    """A source of documents, the first of which is what it names."""

    name = "registry.example/app:v1"

    def __init__(self, *documents: Manifest | Index) -> None:
        self.documents = {document.descriptor().digest: document.encode() for document in documents}
        self.first = documents[0].descriptor()

    def root(self) -> tuple[Descriptor, bytes]:
        return self.first, self.manifest(self.first)

    def manifest(self, named: Descriptor) -> bytes:
        return self.documents[named.digest]


def image(*layers: Descriptor) -> Manifest:
    return Manifest(Descriptor(OCI_CONFIG, C, 10), layers)


def layers_of(*documents: Manifest | Index) -> list[Descriptor]:
    return overlaybd_layers(Image(*documents), HERE)  # type: ignore[arg-type]


@pytest.mark.parametrize("native", [True, False], ids=["all three", "no native one"])
def test_of_an_index_the_image_that_a_device_can_be_made_of_is_taken(native: bool) -> None:
    kinds = {"": ORDINARY, TURBO_ARTIFACT: TURBO, **({NATIVE_ARTIFACT: NATIVE} if native else {})}
    images = {kind: image(layer) for kind, layer in kinds.items()}
    entries = [replace(each.descriptor(), platform=HERE, artifact_type=kind) for kind, each in images.items()]
    assert layers_of(Index(tuple(entries)), *images.values()) == [NATIVE if native else TURBO]


def test_a_device_has_all_layers_but_what_only_says_what_to_fetch() -> None:
    ahead = Descriptor(OCI_LAYER_GZIP, C, 10, {ACCELERATION: "yes"})
    assert layers_of(image(NATIVE, TURBO, ahead)) == [NATIVE, TURBO]


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([NATIVE, ORDINARY], "layer 2 is of kind gzip, upon overlaybd layers"),
        ([NATIVE, Descriptor("application/wasm", C, 10)], "layer 2 is of kind unknown"),
        ([NATIVE, Descriptor(OCI_LAYER, LONG, 10, {BLOB_DIGEST: LONG})], "layer 2: a device has .*SHA-256"),
        ([ORDINARY], "no layer of the image is an overlaybd layer"),
    ],
    ids=["ordinary", "unknown", "sha512", "none"],
)
def test_no_layer_is_silently_left_out(layers: list[Descriptor], said: str) -> None:
    with pytest.raises(ObdError, match=said) as caught:
        layers_of(image(*layers))
    assert caught.value.kind == "unsupported"
