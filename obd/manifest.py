"""The layers of an image as its manifest in a registry names them."""

from __future__ import annotations

import hashlib
import json
import platform
from typing import TYPE_CHECKING, Any, Final

from obd.config import Lower
from obd.config.image import is_digest
from obd.errors import ObdError
from obd.reference import Reference
from obd.registry import PULL, Registry
from obd.secret import without_secrets

if TYPE_CHECKING:
    import requests

_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_ANNOTATION: Final = "containerd.io/snapshot/overlaybd/"
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
MAX_LAYERS: Final = 1024


def own_platform() -> str:
    """The platform of this machine as registries name it."""
    machine = platform.machine()
    return f"linux/{_MACHINES.get(machine, machine)}"


def image_layers(registry: Registry, image: Reference, wanted: str) -> list[Lower]:
    """The overlaybd layers of an image, bottom first; of an index, those for `wanted`.

    Raises `ObdError`: "not-found", "denied", "corrupt" for what is no manifest, "unsupported" for an
    image without such layers.
    """
    manifest = _fetch(registry, image.url, image.digest or image.tag or "latest")
    if "manifests" in manifest:
        manifest = _fetch(registry, image.url, _choose(manifest, image.url, wanted))
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise ObdError("corrupt", f"{without_secrets(image.url)}: the manifest has no list of layers")
    found = [lower for layer in layers if (lower := _lower(layer)) is not None]
    if not found:
        raise ObdError(
            "unsupported", f"{without_secrets(image.url)}: no layer of the image is an overlaybd layer"
        )
    return found


def _fetch(registry: Registry, url: str, reference: str) -> dict[str, Any]:
    from obd.session import read_body

    url = f"{url}/manifests/{reference}"
    accept = {"Accept": ", ".join(_MANIFESTS + _INDEXES)}
    response = registry.request("GET", url, action=PULL, headers=accept)
    body = read_body(response)
    _check_status(response, url)
    name = without_secrets(url)
    if ":" in reference and is_digest(reference) and hashlib.sha256(body).hexdigest() != reference[7:]:
        raise ObdError("corrupt", f"{name}: the registry sent another manifest")
    try:
        manifest = json.loads(body)
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict):
        raise ObdError("corrupt", f"{name}: not a manifest")
    return manifest


def _check_status(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status != 200:
        kind = "denied" if status in (401, 403) else "not-found" if status == 404 else "io"
        raise ObdError(kind, f"GET {without_secrets(url)}: status {status}")


def _choose(index: dict[str, Any], url: str, wanted: str) -> str:
    """The digest of the manifest for a platform (`os/architecture` or `os/architecture/variant`)."""
    there = []
    entries = index["manifests"] if isinstance(index["manifests"], list) else []
    for entry in entries[:MAX_LAYERS]:
        where = entry.get("platform") if isinstance(entry, dict) else None
        if not isinstance(where, dict) or not is_digest(str(entry.get("digest"))):
            continue
        name = f"{where.get('os')}/{where.get('architecture')}"
        variant = f"{name}/{where.get('variant')}"
        if wanted in (name, variant):
            return str(entry["digest"])
        there.append(variant if where.get("variant") else name)
    have = ", ".join(there) or "none"
    raise ObdError("not-found", f"{without_secrets(url)}: no image for {wanted}; there are: {have}"[:500])


def _lower(layer: Any) -> Lower | None:
    """A layer of a manifest if it is an overlaybd layer."""
    annotations = layer.get("annotations") if isinstance(layer, dict) else None
    if not isinstance(annotations, dict) or f"{_ANNOTATION}turbo-oci/target-digest" in annotations:
        return None
    digest, size = annotations.get(f"{_ANNOTATION}blob-digest"), layer.get("size")
    if not isinstance(digest, str) or not is_digest(digest) or digest != layer.get("digest"):
        return None
    return Lower(digest=digest, size_bytes=size if isinstance(size, int) and 0 < size < 1 << 50 else 0)
