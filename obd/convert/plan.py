"""What a conversion has to make, by the documents of the source alone: images, layers, their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from obd.convert.chain import uuid_of
from obd.errors import ObdError
from obd.oci.descriptor import Descriptor
from obd.oci.digest import chain_ids, is_digest
from obd.oci.fields import parse
from obd.oci.layers import is_foreign, layer_kind
from obd.oci.manifest import Index, Manifest
from obd.oci.platform import Platform, own_platform

# What an index says of an entry that belongs to another one.
REFERENCE_TYPE: Final = "vnd.docker.reference.type"
REFERENCE_DIGEST: Final = "vnd.docker.reference.digest"
# The core opens no more layers at once, with one that is written.
MAX_LAYERS: Final = 254
# What has to fit, and what ext4 of blocks of 4 KiB can be.
USUAL_VSIZE_BYTES: Final = 64 << 30
MAX_VSIZE_BYTES: Final = 16 << 40


@dataclass(frozen=True, slots=True)
class Step:
    """One layer to be made of one of the source, and how it is named."""

    position: int
    source: Descriptor
    diff_id: str
    chain_id: str
    uuid: str
    parent_uuid: str | None


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """One image: its entry in the source, its documents, and a step for each layer, bottom first."""

    entry: Descriptor
    manifest: Manifest
    config: dict[str, Any]
    steps: tuple[Step, ...]

    @property
    def platform(self) -> str:
        """As people say it."""
        found = self.entry.platform
        if found is None:
            names = (self.config.get(name) for name in ("os", "architecture", "variant"))
            return "/".join(str(name) for name in names if name)
        return str(found)


def plan_image(entry: Descriptor, manifest: Manifest, config: bytes) -> ImagePlan:
    """The plan for one image. Raises `ObdError`: "corrupt", "unsupported" for what has no layers of files."""
    found = parse(config, "image configuration")
    diff_ids = _diff_ids(found)
    layers = manifest.layers
    if not layers:
        raise ObdError("unsupported", f"{entry.digest}: the image has no layers")
    if len(layers) > MAX_LAYERS:
        raise ObdError("limit", f"{entry.digest}: {len(layers)} layers, more than {MAX_LAYERS}")
    for at, layer in enumerate(layers):
        _check_layer(at, layer)
    if len(diff_ids) != len(layers):
        what = f"{len(layers)} layers, but {len(diff_ids)} diff IDs in the configuration"
        raise ObdError("corrupt", f"{entry.digest}: {what}")
    chain = chain_ids(diff_ids)
    uuids = [uuid_of(each) for each in chain]
    steps = (
        Step(at, layer, diff_ids[at], chain[at], uuids[at], uuids[at - 1] if at else None)
        for at, layer in enumerate(layers)
    )
    return ImagePlan(entry, manifest, found, tuple(steps))


def _diff_ids(config: dict[str, Any]) -> list[str]:
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or not all(is_digest(each) for each in found):
        raise ObdError("corrupt", "the image configuration has no list of diff IDs: not an image of files")
    if not all(each.startswith("sha256:") for each in found):
        raise ObdError("unsupported", "diff IDs by other than SHA-256")
    return found


def _check_layer(position: int, layer: Descriptor) -> None:
    kind = layer_kind(layer)
    what = ""
    if kind in ("overlaybd", "turboOCI", "acceleration"):
        what = f"is of kind {kind} already"
    elif kind == "unknown":
        what = f"is no archive of files: {layer.media_type}"
    elif is_foreign(layer):
        what = "is not in the registry, but where its urls say"
    if what:
        raise ObdError("unsupported", f"layer {position} {layer.digest} {what}")


def chosen_entries(index: Index, platforms: tuple[str, ...], every: bool) -> tuple[Descriptor, ...]:
    """The entries of an index to be converted: all for Linux, those for some platforms, or for this machine.

    Raises `ObdError` "not-found", "invalid".
    """
    if every:
        found = [entry for entry in index.manifests if _is_convertible(entry)]
        if not found:
            raise ObdError("not-found", "the index has no image for Linux")
        return tuple(found)
    wanted = [Platform.parse(word) for word in platforms] or [own_platform()]
    return tuple({entry.digest: entry for entry in map(index.choose, wanted)}.values())


def _is_convertible(entry: Descriptor) -> bool:
    """Whether an entry is an image of files of Linux; what says for which system it is, is believed."""
    if is_attached(entry) or entry.artifact_type:
        return False
    return entry.platform is None or entry.platform.os in ("linux", "")


def is_attached(entry: Descriptor) -> bool:
    """Whether an entry of an index is no image, but says something of one: an attestation."""
    return REFERENCE_TYPE in entry.annotations


def first_vsize(plan: ImagePlan) -> int:
    """The virtual size to try first, bytes: 64 GiB, for equal layers of different images to be one blob.

    Where the stored content is no small part of that, the power of two above twice of it.
    """
    stored = sum(layer.size for layer in plan.manifest.layers)
    return max(USUAL_VSIZE_BYTES, 1 << (2 * stored - 1).bit_length())
