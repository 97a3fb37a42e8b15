"""An image brought to containerd as its names, its documents, and snapshots that read its layers lazily."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from obd.containerd.client import Containerd
from obd.errors import ObdError
from obd.oci.digest import chain_ids, is_digest
from obd.oci.layers import ARTIFACTS
from obd.oci.manifest import Index, Manifest, parse_manifest
from obd.oci.trees import tree_of
from obd.snapshotter import labels as L

if TYPE_CHECKING:
    from obd.oci.descriptor import Descriptor
    from obd.oci.platform import Platform
    from obd.oci.protocols import ImageSource

_GC: Final = "containerd.io/gc.ref"
_INHERITED: Final = "containerd.io/snapshot/"


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of it: how many layers are read lazily, and how many were fetched."""

    digest: str
    lazy: int
    fetched: int
    present: int


def pull(
    containerd: Containerd,
    source: ImageSource,
    reference: str,
    *,
    platform: Platform,
    snapshotter: str,
    download: bool = False,
) -> Pulled:
    """Brings the image `reference`, which `source` reads; `download`: with the blobs of its layers.

    Raises `ObdError`. What was brought before goes with containerd's next collection.
    """
    with containerd.lease():
        root, data = source.root()
        found = parse_manifest(data, where=source.name)
        if isinstance(found, Index):
            entry = found.choose(platform, *ARTIFACTS)
            children = {f"{_GC}.content.m.{n}": each.digest for n, each in enumerate(found.manifests)}
            containerd.put(root, io.BytesIO(data), children | _origin(reference))
            named, data = entry, source.manifest(entry)
            found = parse_manifest(data, where=source.name)
        else:
            named = root
        if not isinstance(found, Manifest):
            raise ObdError("unsupported", "an index within an index is no image", source.name)
        children = {f"{_GC}.content.l.{number}": layer.digest for number, layer in enumerate(found.layers)}
        children[f"{_GC}.content.config"] = found.config.digest
        containerd.put(named, io.BytesIO(data), children | _origin(reference))
        diff_ids, config = _diff_ids(source, found)
        chain = chain_ids(diff_ids)
        layers = _Layers(containerd, source, reference, snapshotter, download)
        for layer, diff_id, chain_id, parent in zip(
            found.layers, diff_ids, chain, ["", *chain], strict=False
        ):
            layers.bring(layer, diff_id, chain_id, parent)
        top = {f"{_GC}.snapshot.{snapshotter}": chain[-1]} if chain else {}
        containerd.put(found.config, io.BytesIO(config), top | _origin(reference))
        containerd.name(reference, root, {})
    return Pulled(root.digest, layers.lazy, layers.fetched, layers.present)


def _origin(reference: str) -> dict[str, str]:
    host, _, rest = reference.partition("/")
    repository = rest.partition("@")[0]
    directory, slash, last = repository.rpartition("/")
    return {f"containerd.io/distribution.source.{host}": directory + slash + last.partition(":")[0]}


def _diff_ids(source: ImageSource, manifest: Manifest) -> tuple[list[str], bytes]:
    """What the layers unpack to, bottom first, and the image's configuration that says so."""
    with source.blob(manifest.config) as stream:
        data = stream.read()
    try:
        diff_ids = json.loads(data)["rootfs"]["diff_ids"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ObdError(
            "corrupt", "its configuration names no layers (rootfs.diff_ids)", source.name
        ) from None
    if not isinstance(diff_ids, list) or len(diff_ids) != len(manifest.layers):
        what = f"{len(manifest.layers)} layers, but diff_ids has another number of entries"
        raise ObdError("corrupt", what, source.name)
    if not all(isinstance(each, str) and is_digest(each) for each in diff_ids):
        raise ObdError("corrupt", "its configuration has what is no digest in rootfs.diff_ids", source.name)
    return diff_ids, data


class _Layers:
    """Brings the layers of one image, in order."""

    def __init__(
        self, containerd: Containerd, source: ImageSource, reference: str, snapshotter: str, download: bool
    ) -> None:
        self._containerd = containerd
        self._source = source
        self._reference = reference
        self._snapshotter = snapshotter
        self._download = download
        self.lazy = self.fetched = self.present = 0

    def bring(self, layer: Descriptor, diff_id: str, chain_id: str, parent: str) -> None:
        """Has a committed snapshot of one layer there."""
        if self._is_there(chain_id):
            self.present += 1
            return
        key = f"extract-{secrets.token_hex(8)} {chain_id}"
        labels = self._labels(layer, chain_id)
        try:
            made = self._call("Prepare", key=key, parent=parent, labels=labels)
        except ObdError as error:
            if error.kind != "exists" or not self._is_there(chain_id):
                raise
            self.lazy += 1
            return
        try:
            with self._source.blob(layer) as stream:
                self._containerd.put(layer, stream, _origin(self._reference))
            unpacked = self._containerd.apply(layer, made.mounts)
            if unpacked != diff_id:
                # Images with the true layer would be given this one.
                what = (
                    f"layer {layer.digest} unpacks to {unpacked}, not to {diff_id} as the configuration says"
                )
                raise ObdError("corrupt", what, self._source.name)
            self._call("Commit", name=chain_id, key=key, labels=labels)
        except BaseException as error:
            with suppress(ObdError):  # the cause says more
                self._call("Remove", key=key)
            if isinstance(error, ObdError) and error.kind == "exists" and self._is_there(chain_id):
                self.present += 1  # another pull of the same layer was first
                return
            raise
        self.fetched += 1

    def _labels(self, layer: Descriptor, chain_id: str) -> Mapping[str, str]:
        inherited = {name: value for name, value in layer.annotations.items() if name.startswith(_INHERITED)}
        for name in L.IMAGE_REFERENCES:  # an image does not say where it is read from
            inherited.pop(name, None)
        if tree := tree_of(layer):
            inherited |= tree.labels  # a layer may have been made when these were no annotations
        own = {L.TARGET: chain_id, L.IMAGE_REFERENCE: self._reference}
        return inherited | own | ({L.DOWNLOAD: "download"} if self._download else {})

    def _is_there(self, chain_id: str) -> bool:
        try:
            self._call("Stat", key=chain_id)
        except ObdError as error:
            if error.kind != "not-found":
                raise
            return False
        return True

    def _call(self, method: str, **fields: Any) -> Any:
        return self._containerd.snapshots(method, self._snapshotter, **fields)
