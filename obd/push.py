"""Uploads blobs and a manifest to a registry, so that layers on this machine become an image."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final
from urllib.parse import urljoin

import requests

from obd.errors import ObdError
from obd.registry import PUSH, Registry
from obd.secret import without_secrets
from obd.session import read_body

# Bytes of one PATCH; each begins with a token that is still good, whatever the length of the blob.
PART_BYTES: Final = 64 << 20
_READ_BYTES: Final = 1 << 20

LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
# Annotations by which snapshotters know a layer that is a block device.
_ANNOTATION: Final = "containerd.io/snapshot/overlaybd/"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Descriptor:
    """A blob as manifests name it."""

    digest: str
    size: int


class Repository:
    """One repository to push into, such as `https://registry.example/v2/team/app`.

    `part_bytes` is what one PATCH carries at most. All methods raise `ObdError`: "denied", "io",
    "timed-out", or "invalid" for answers that make no sense.
    """

    def __init__(self, registry: Registry, url: str, *, part_bytes: int = PART_BYTES) -> None:
        self._registry = registry
        self._url = url.rstrip("/")
        self._part_bytes = part_bytes

    def push_file(self, path: str, progress: Progress | None = None) -> Descriptor:
        """Uploads the file `path` unless it is there; `progress(done, total)` counts bytes of the upload."""
        with open(path, "rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
            blob = Descriptor(digest, os.fstat(file.fileno()).st_size)
            self._push(file, blob, progress)
        return blob

    def push_bytes(self, data: bytes) -> Descriptor:
        """Uploads a blob that is in memory."""
        blob = Descriptor(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
        self._push(io.BytesIO(data), blob, None)
        return blob

    def push_manifest(
        self, tag: str, layers: Sequence[Descriptor], *, architecture: str = "amd64"
    ) -> Descriptor:
        """Makes `tag` an image of overlaybd layers, bottom first, which have been pushed before."""
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {},
            # The tar of a layer is not compressed as such, so the diff ID is the digest of the blob.
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
        pushed = self.push_bytes(json.dumps(config).encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": pushed.digest, "size": pushed.size},
            "layers": [_layer(layer) for layer in layers],
        }
        data = json.dumps(manifest).encode()
        self._send("PUT", f"{self._url}/manifests/{tag}", data, headers={"Content-Type": MANIFEST_TYPE})
        return Descriptor(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))

    def _push(self, file: BinaryIO, blob: Descriptor, progress: Progress | None) -> None:
        if not self._exists(blob.digest):
            location = self._next(self._send("POST", f"{self._url}/blobs/uploads/", b""))
            for start in range(0, blob.size, self._part_bytes):
                part = _Part(file, start, min(start + self._part_bytes, blob.size), blob.size, progress)
                location = self._next(self._send("PATCH", location, part, headers=part.headers()))
            joint = "&" if "?" in location else "?"
            self._send("PUT", f"{location}{joint}digest={blob.digest}", b"")
        if progress:
            progress(blob.size, blob.size)

    def _exists(self, digest: str) -> bool:
        with self._registry.request("HEAD", f"{self._url}/blobs/{digest}", action=PUSH) as response:
            return response.status_code == 200

    def _send(
        self,
        method: str,
        url: str,
        data: "bytes | _Part",
        headers: dict[str, str] | None = None,
    ) -> requests.Response:
        response = self._registry.request(method, url, action=PUSH, headers=headers, data=data)
        body = read_body(response)
        if not 200 <= response.status_code < 300:
            kind = "denied" if response.status_code in (401, 403) else "io"
            why = _reason(body)
            raise ObdError(kind, f"{method} {without_secrets(url)}: status {response.status_code}{why}")
        return response

    def _next(self, response: requests.Response) -> str:
        """Where an upload goes on."""
        location = response.headers.get("Location")
        if not location:
            raise ObdError("invalid", f"{without_secrets(response.url)}: upload without Location")
        return urljoin(response.url, location)


class _Part:
    """Bytes `start` to `end` of a file as the body of a request, read piece by piece."""

    def __init__(self, file: BinaryIO, start: int, end: int, size: int, progress: Progress | None) -> None:
        self._file, self._start, self._end, self._size = file, start, end, size
        self._progress = progress

    def headers(self) -> dict[str, str]:
        return {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{self._start}-{self._end - 1}",
        }

    def __len__(self) -> int:
        return self._end - self._start

    def __iter__(self) -> Iterator[bytes]:
        """The bytes, from the beginning each time: a refused request is sent again."""
        at = self._start
        while at < self._end:
            self._file.seek(at)
            piece = self._file.read(min(_READ_BYTES, self._end - at))
            if not piece:
                raise ObdError("corrupt", "the file became shorter while it was uploaded")
            yield piece
            at += len(piece)
            if self._progress:
                self._progress(at, self._size)


def _layer(layer: Descriptor) -> dict[str, object]:
    annotations = {"version": "0.1.0", "blob-digest": layer.digest, "blob-size": str(layer.size)}
    return {
        "mediaType": LAYER_TYPE,
        "digest": layer.digest,
        "size": layer.size,
        "annotations": {_ANNOTATION + name: value for name, value in annotations.items()},
    }


def _reason(body: bytes) -> str:
    """The registry's own words from the body of an error."""
    try:
        first = json.loads(body)["errors"][0]
        return f": {first['code']}: {first.get('message', '')}"[:200]
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
