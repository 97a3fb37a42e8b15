"""Images of files made for tests: layers written by Python's tarfile, in an OCI layout."""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

OCI = "application/vnd.oci.image."
WHEN = 1_700_000_000


def sha256(data: bytes) -> str:
    """Its digest."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Layer:
    """An archive that grows; `compression` is "", "gzip" or "zstd"."""

    def __init__(self, compression: str = "gzip") -> None:
        self.compression = compression
        self._out = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._out, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **more: Any) -> "Layer":
        """Adds a member; `more` are attributes of `tarfile.TarInfo`."""
        member = tarfile.TarInfo(name)
        member.type, member.size, member.mtime = kind, len(data), WHEN
        member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        for key, value in more.items():
            setattr(member, key, value)
        self._tar.addfile(member, io.BytesIO(data))
        return self

    def raw(self) -> bytes:
        """The archive, complete."""
        self._tar.close()
        return self._out.getvalue()


def compressed(data: bytes, compression: str) -> bytes:
    """`data` as a layer of that kind."""
    if compression == "gzip":
        return gzip.compress(data, 6, mtime=0)
    return zstandard.compress(data) if compression == "zstd" else data


@dataclass
class Layout:
    """An OCI layout directory that is being filled."""

    path: Path
    entries: list[dict[str, Any]] = field(default_factory=list)

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Stores a blob; returns its descriptor."""
        digest = sha256(data)
        file = self.path / "blobs" / digest.replace(":", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def image(
        self, layers: list[Layer], *, config: dict[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        """Stores an image; returns its descriptor. `more` goes into the manifest."""
        descriptors, diff_ids = [], []
        for layer in layers:
            raw = layer.raw()
            kind = f"+{layer.compression}" if layer.compression else ""
            descriptors.append(self.blob(compressed(raw, layer.compression), f"{OCI}layer.v1.tar{kind}"))
            diff_ids.append(sha256(raw))
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Labels": {"a": "b"}},
            "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
            **(config or {}),
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}manifest.v1+json",
            "config": self.blob(json.dumps(document).encode(), f"{OCI}config.v1+json"),
            "layers": descriptors,
            **more,
        }
        return self.blob(json.dumps(manifest).encode(), manifest["mediaType"])

    def index(self, entries: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Stores an index of entries, which are descriptors with platforms; returns its descriptor."""
        document = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}index.v1+json",
            "manifests": entries,
            **more,
        }
        return self.blob(json.dumps(document).encode(), f"{OCI}index.v1+json")

    def tag(self, descriptor: dict[str, Any], name: str) -> str:
        """Gives an image its name; returns how commands call it."""
        self.entries.append({**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}})
        (self.path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.entries}))
        return f"oci:{self.path}:{name}"

    def read(self, descriptor: dict[str, Any]) -> Any:
        """The JSON of a blob."""
        return json.loads(self.bytes(descriptor["digest"]))

    def bytes(self, digest: str) -> bytes:
        """A blob."""
        return (self.path / "blobs" / digest.replace(":", "/")).read_bytes()

    def tagged(self, name: str) -> dict[str, Any]:
        """The descriptor that has a tag."""
        index = json.loads((self.path / "index.json").read_text())
        key = "org.opencontainers.image.ref.name"
        (found,) = [entry for entry in index["manifests"] if entry["annotations"][key] == name]
        return dict(found)
