"""The hash trees of an image's layers: the root on the layer's descriptor, the leaves in a blob beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, Final

from obd.errors import ObdError
from obd.oci.descriptor import Descriptor
from obd.oci.digest import is_digest
from obd.oci.layers import PREFIX, layer_kind
from obd.oci.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from obd.oci.protocols import ImageDestination, ImageSource

# Annotations of a layer.
ROOT: Final = "overlaybd.merkle.root"
LEAVES: Final = "overlaybd.merkle.leaves"
LEAVES_SIZE: Final = "overlaybd.merkle.leaves-size"
# The same for containerd, which hands on to snapshotters, as labels, what begins so.
_HANDED_ON: Final = f"{PREFIX}merkle-"
_HANDED_KEYS: Final = (f"{_HANDED_ON}root", f"{_HANDED_ON}leaves", f"{_HANDED_ON}leaves-size")
TREE_KEYS: Final = (ROOT, LEAVES, LEAVES_SIZE, *_HANDED_KEYS)
# The type of a list of leaves, and of what refers to an image for the sake of those of its layers.
MEDIA_TYPE: Final = "application/vnd.overlaybd.merkle.v1"
# Of a blob of 64 GiB, the largest that can have a tree.
MAX_LIST_BYTES: Final = 24 + (32 << 20)

_EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
_EMPTY: Final = b"{}"
_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LayerTree:
    """`root`: as a digest. `leaves`: the blob that has the list."""

    root: str
    leaves: Descriptor

    @property
    def annotations(self) -> dict[str, str]:
        """How the descriptor of the layer says it."""
        return {
            ROOT: self.root,
            LEAVES: self.leaves.digest,
            LEAVES_SIZE: str(self.leaves.size),
            **self.labels,
        }

    @property
    def labels(self) -> dict[str, str]:
        """How a snapshotter is told of it."""
        return dict(zip(_HANDED_KEYS, (self.root, self.leaves.digest, str(self.leaves.size)), strict=True))


def tree_of(layer: Descriptor) -> LayerTree | None:
    """The tree that the descriptor of a layer names; None if there is none, or none that makes sense."""
    return _tree(layer.annotations, (ROOT, LEAVES, LEAVES_SIZE))


def tree_by_labels(labels: Mapping[str, str]) -> LayerTree | None:
    """The tree that the labels of a layer's snapshot name; None as of `tree_of`."""
    return _tree(labels, _HANDED_KEYS)


def _tree(annotations: Mapping[str, str], keys: Sequence[str]) -> LayerTree | None:
    root, leaves, size = (annotations.get(key, "") for key in keys)
    if not (is_digest(root) and is_digest(leaves) and size.isascii() and size.isdigit() and len(size) < 12):
        return None
    if not 0 < int(size) <= MAX_LIST_BYTES:
        return None
    return LayerTree(root, Descriptor(MEDIA_TYPE, leaves, int(size)))


def make_tree(layer: BinaryIO, told: Callable[[int], object] = int) -> tuple[LayerTree, bytes] | None:
    """The tree and the list of leaves of a layer that is read to its end; None for one that can have none.

    `told` hears how many bytes were read. What the stream raises goes on to the caller.
    """
    import obdcore

    builder, done = obdcore.MerkleBuilder(), 0
    while piece := layer.read(_PIECE_BYTES):
        builder.update(piece)
        done += len(piece)
        told(done)
    try:
        leaves, root = builder.finish()
    except obdcore.Error:
        return None  # too large, or empty
    return LayerTree(f"sha256:{root}", Descriptor.of(leaves, MEDIA_TYPE)), leaves


def add_tree(destination: ImageDestination, layer: Descriptor, content: BinaryIO) -> Descriptor:
    """The descriptor of a layer with its tree, whose leaves are in the destination now.

    `content` is closed. A layer that has a tree, or can have none, stays as it is.
    """
    with content:
        found = None if tree_of(layer) else make_tree(content)
    if found is None:
        return layer
    tree, leaves = found
    destination.put_blob(tree.leaves, leaves)
    return replace(layer, annotations={**layer.annotations, **tree.annotations})


def put_referrer(destination: ImageDestination, image: Descriptor, layers: Sequence[Descriptor]) -> None:
    """Has the destination keep the lists of an image's layers, which its manifest names in passing only."""
    trees = {tree.leaves.digest: tree.leaves for layer in layers if (tree := tree_of(layer))}
    if not trees:
        return
    empty = Descriptor.of(_EMPTY, _EMPTY_TYPE)
    subject = Descriptor(image.media_type, image.digest, image.size)
    manifest = Manifest(empty, tuple(trees.values()), subject=subject, artifact_type=MEDIA_TYPE)
    data = manifest.encode()
    destination.put_blob(empty, _EMPTY)
    destination.put_manifest(Descriptor.of(data, manifest.media_type), data, "")


def carry_trees(
    source: ImageSource, destination: ImageDestination, image: Descriptor, layers: Sequence[Descriptor]
) -> bool:
    """Takes the lists of an image's layers along; false if the source lacks one: then there are none."""
    if not all(carry_leaves(source, destination, layer) for layer in layers if tree_of(layer)):
        return False
    put_referrer(destination, image, layers)
    return True


def carry_leaves(source: ImageSource, destination: ImageDestination, layer: Descriptor) -> bool:
    """Has the destination the list of a layer's leaves; false if it has no tree, or nobody has them."""
    tree = tree_of(layer)
    if tree is None:
        return False
    if destination.has_blob(tree.leaves) or destination.mount_blob(tree.leaves, source):
        return True
    try:
        with source.blob(tree.leaves) as stream:
            destination.put_blob(tree.leaves, stream)
    except ObdError as error:
        if error.kind != "not-found":
            raise
        return False
    return True


def can_have_tree(layer: Descriptor) -> bool:
    """Whether it is a layer whose blob is read in place: those of turboOCI are brought as a whole."""
    return layer_kind(layer) == "overlaybd"
