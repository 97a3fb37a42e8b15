"""Applying a layer to a raw image, as the tests here do it."""

import os
from pathlib import Path
from typing import Any

import obdcore

SIZE = 128 << 20


def applied(image: Path, layer: bytes, directory: Path, size: int = SIZE, **more: Any) -> dict[str, Any]:
    """Applies a layer to a raw image, which is made if it is not there."""
    archive = directory / "layer.tar"
    archive.write_bytes(layer)
    is_new = not image.exists()
    if is_new:
        with image.open("xb") as file:
            file.truncate(size)
    source = os.open(archive, os.O_RDONLY)
    try:
        return obdcore.ext4_apply(str(image), source, mkfs=is_new, **more)
    finally:
        os.close(source)
