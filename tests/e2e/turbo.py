"""Images of turboOCI made by hand: a target, metadata that maps to it, and both in a registry."""

import hashlib
import io
import random
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import obdcore
from obd.oci import Descriptor, Manifest
from obd.oci.layers import BLOB_DIGEST, BLOB_SIZE, TARGET_DIGEST, TARGET_MEDIA_TYPE, TURBO_VERSION, VERSION
from obd.oci.media import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP
from obd.oci.registry_destination import RegistryDestination
from obd.push import Repository
from obd.reference import Reference
from obd.registry import Registry
from tests.e2e.commands import ok

MIB = 1 << 20
DEVICE_BYTES = 1 << 30
TARGET_BYTES = 12 * MIB
# Where on the device the target is, as a whole.
TARGET_AT = 64 * MIB
META = b"metadata" * 512


class Turbo:
    """A layer of turboOCI in files of `home`: `tar` or `target` (a gzip of it), `meta`, `gzip_index`."""

    def __init__(self, home: Path, *, seed: int = 1, gzip: bool = True) -> None:
        home.mkdir(exist_ok=True)
        self.content = random.Random(seed).randbytes(TARGET_BYTES)
        self.target, self.meta, self.gzip_index = home / "target", home / "ext4.fs.meta", home / "gzip.meta"
        self.is_gzip = gzip
        if gzip:
            packer = zlib.compressobj(1, wbits=31)
            self.target.write_bytes(packer.compress(self.content) + packer.flush())
            with self.target.open("rb") as source, self.gzip_index.open("xb") as output:
                obdcore.gzip_index(source.fileno(), output.fileno())
        else:
            self.target.write_bytes(self.content)
        data, index = str(home / "data"), str(home / "index")
        ok("overlaybd-create", data, index, "1", "-s", "--turboOCI")
        (home / "nothing").touch()
        image = obdcore.Image([], (data, index, str(home / "nothing")))
        image.write_at(0, META)
        image.map_remote(TARGET_AT, TARGET_BYTES, 0)
        image.close()
        ok("overlaybd-commit", data, index, self.meta, "-z", "--fastoci")

    @property
    def digest(self) -> str:
        """That of the target."""
        return f"sha256:{hashlib.sha256(self.target.read_bytes()).hexdigest()}"

    def lower(self, **more: object) -> dict[str, object]:
        """A lower of a configuration, with its metadata here and its target wherever `more` says."""
        index = {"gzipIndex": str(self.gzip_index)} if self.is_gzip else {}
        return {"file": str(self.meta), **index, **more}

    def archive(self, *leave_out: str, **more: bytes) -> bytes:
        """The metadata as it is kept in registries."""
        members = {self.meta.name: self.meta.read_bytes(), ".turbo.ociv1": b""}
        if self.is_gzip:
            members[self.gzip_index.name] = self.gzip_index.read_bytes()
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name, content in (members | more).items():
                if name not in leave_out:
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return packed.getvalue()

    def descriptor(self, archive: bytes) -> Descriptor:
        """The layer in a manifest, whose blob is `archive`."""
        layer = Descriptor.of(archive, OCI_LAYER_GZIP)
        annotations = {
            VERSION: TURBO_VERSION,
            BLOB_DIGEST: layer.digest,
            BLOB_SIZE: str(layer.size),
            TARGET_DIGEST: self.digest,
            TARGET_MEDIA_TYPE: OCI_LAYER_GZIP if self.is_gzip else OCI_LAYER,
        }
        return replace(layer, annotations=annotations)


def push(registry: Registry, url: str, tag: str, layers: list[Descriptor], blobs: list[bytes]) -> None:
    """Makes `tag` an image of these layers."""
    repository = Repository(registry, url)
    for blob in blobs:
        repository.push_bytes(blob)
    config = repository.push_bytes(b'{"architecture":"amd64","os":"linux"}', OCI_CONFIG)
    manifest = Manifest(config, tuple(layers))
    there = RegistryDestination(registry, Reference(url, "", ""))
    there.put_manifest(manifest.descriptor(), manifest.encode(), tag)
