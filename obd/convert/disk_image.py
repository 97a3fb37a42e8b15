"""A disk image as an image of one layer in a registry, layout or archive: for virtual machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from obd.convert.disk import layer_of_disk
from obd.convert.layer import digest_of_file
from obd.convert.options import ImageResult, LayerResult, Result
from obd.convert.record import Made
from obd.convert.work import Work
from obd.oci.descriptor import Descriptor
from obd.oci.fields import encode
from obd.oci.layers import BLOB_DIGEST, BLOB_SIZE, FS_TYPE, NATIVE_VERSION, VERSION
from obd.oci.manifest import Manifest
from obd.oci.media import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from obd.oci.platform import Platform, own_platform
from obd.oci.trees import add_tree, put_referrer

if TYPE_CHECKING:
    from obd.convert.options import Options
    from obd.convert.target import Target

# What is said of its making: nothing that differs where the disk does not.
_CREATED_BY: Final = "disk image"

Told = Callable[[str, int, int], None]


def convert_disk(path: str, target: Target, options: Options, told: Told, *, rootfs: bool = False) -> Result:
    """Makes an image of the disk image `path`, raw or qcow2, or with `rootfs` of its root partition alone.

    Equal disks give equal images for a platform (the first of the options, or this machine's). There is
    nothing to run in it. `told(doing, done, total)` counts bytes of "importing" and "pushing".
    Raises `OSError`.
    """
    platform = Platform.parse(options.platforms[0]) if options.platforms else own_platform()
    destination = target.destination
    before = destination.manifest(destination.tag) if destination.tag else None
    with Work(options.work) as work:
        layer = work.temporary("disk.layer")
        with open(layer, "xb") as file:
            done = layer_of_disk(
                path,
                file.fileno(),
                options.compress,
                rootfs=rootfs,
                progress=lambda at, total: told("importing", at, total),
            )
        digest = digest_of_file(layer, lambda _done, _total: told("importing", 0, 0))
        made = Made(digest, done["stored_size"], digest, "native")
        config = encode(_config(platform, digest))
        blob = _layer(made, done)
        if options.merkle:
            blob = add_tree(destination, blob, open(layer, "rb"))  # noqa: SIM115 - it closes it
        manifest = Manifest(Descriptor.of(config, OCI_CONFIG), (blob,), {}, OCI_MANIFEST)
        data = manifest.encode()
        root = Descriptor.of(data, OCI_MANIFEST)
        there = options.reuse and target.has(made)
        if not there:
            target.put(made, layer, lambda at, total: told("pushing", at, total))
        work.done()
    unchanged = there and before == data and destination.has_blob(manifest.config)
    if not unchanged:
        destination.put_blob(manifest.config, config)
        put_referrer(destination, root, manifest.layers)
        destination.put_manifest(root, data, destination.tag)
    result = LayerResult(made.digest, made.size, "", "reused" if there else "built")
    notes = () if done["partition"] is None else (f"the root is partition {done['partition']}",)
    image = ImageResult(str(platform), root.digest, root.size, "", (result,), done["virtual_size"], notes)
    return Result(root.digest, root.size, OCI_MANIFEST, unchanged, (image,))


def _layer(made: Made, done: dict[str, Any]) -> Descriptor:
    kind = {FS_TYPE: done["file_system"]} if done["file_system"] else {}
    own = {VERSION: NATIVE_VERSION, BLOB_DIGEST: made.digest, BLOB_SIZE: str(made.size)}
    return Descriptor(OCI_LAYER, made.digest, made.size, own | kind)


def _config(platform: Platform, diff_id: str) -> dict[str, Any]:
    return {
        **platform.to_json(),
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created_by": _CREATED_BY}],
    }
