"""The OCI image layout: which files it has, and what its index says under a name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from obd.errors import ObdError
from obd.oci import fields
from obd.oci.descriptor import Descriptor
from obd.oci.digest import is_digest
from obd.oci.manifest import Index, parse_manifest
from obd.oci.media import OCI_INDEX

if TYPE_CHECKING:
    from obd.oci.store import Store

INDEX: Final = "index.json"
MARK: Final = "oci-layout"
MARK_CONTENT: Final = fields.encode({"imageLayoutVersion": "1.0.0"})
BLOBS: Final = "blobs"

# What an entry of the index is called: by OCI, and the whole name by containerd and Docker.
REF_NAME: Final = "org.opencontainers.image.ref.name"
IMAGE_NAME: Final = "io.containerd.image.name"


def blob_name(digest: str) -> str:
    """The file of a blob, whose digest has been checked."""
    algorithm, _, digits = digest.partition(":")
    return f"{BLOBS}/{algorithm}/{digits}"


def read_index(store: Store) -> Index:
    """The index of a layout. Raises `ObdError`; for what is no layout "not-found" or "unsupported"."""
    try:
        with fields.at(f"{store.name}/{MARK}"):
            mark = fields.parse(store.read(MARK), MARK)
    except ObdError as error:
        if error.kind == "not-found":
            raise ObdError("not-found", "no OCI layout: there is no oci-layout", store.name) from None
        raise
    version = mark.get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        what = f"an OCI layout of version {fields.shown(version)}"
        raise ObdError("unsupported", what, store.name)
    found = parse_manifest(store.read(INDEX), OCI_INDEX, f"{store.name}/{INDEX}")
    if not isinstance(found, Index):
        raise ObdError("corrupt", "not an index", f"{store.name}/{INDEX}")
    return found


def find(index: Index, tag: str, where: str) -> Descriptor:
    """The entry with that tag or digest; without one, the only entry. Raises `ObdError` "not-found"."""
    if not tag and len(index.manifests) == 1:
        return index.manifests[0]
    for entry in index.manifests:
        if tag and tag in names_of(entry):
            return entry
    there = sorted({name for entry in index.manifests for name in names_of(entry)[:1]})
    what = f"no image {tag}" if tag else f"{len(index.manifests)} images: say which"
    have = f"; there are: {', '.join(there)}" if there else ""
    raise ObdError("not-found", f"{what}{have}"[:500], where)


def names_of(entry: Descriptor) -> list[str]:
    """What an entry may be called by."""
    names = [entry.annotations[key] for key in (REF_NAME, IMAGE_NAME) if entry.annotations.get(key)]
    return [*names, entry.digest]


def with_entry(index: Index, entry: Descriptor, tag: str) -> Index:
    """`index` with an entry of that tag, which whoever had it loses; without a tag with one of no name."""
    if tag:
        entry = replace(entry, annotations={**entry.annotations, REF_NAME: tag})
        others = [other for other in index.manifests if other.annotations.get(REF_NAME) != tag]
    else:
        others = list(index.manifests)
        if any(other.digest == entry.digest for other in others):
            return index
    return replace(index, manifests=(*others, entry))


def check_tag(tag: str) -> None:
    """Raises `ObdError` "invalid" for what cannot be the name of an entry."""
    if not tag.isprintable() or is_digest(tag):
        raise ObdError("invalid", f"{fields.shown(tag)} cannot be a tag")
