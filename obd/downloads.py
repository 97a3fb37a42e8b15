"""The background download of a device: what the configurations ask for, given to the room `cache`."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import obdcore
    from cache.copy import Layer
    from cache.download import Downloads
    from obd.image import Device
    from obd.locate import Source
    from obd.service import Service

_log: Final = logging.getLogger("overlaybd.download")
_MIB: Final = 1 << 20


def start_downloads(device: Device, service: Service) -> Downloads | None:
    """Starts the downloads of a device's remote layers; None if there are none to make. Raises `OSError`."""
    config = device.config
    wanted = config.download or service.download_defaults()
    if not wanted.enable:
        return None
    name = config.file or "image"
    from cache.download import Downloads, Settings

    layers = []
    for source in device.sources:
        for part, blob in zip(source.parts, device.remote(source.position), strict=False):
            if blob is None:
                continue
            if not part.lower.dir:
                _log.warning("%s: %s has no dir: it is not downloaded", name, part.title)
                continue
            layers.append(copy_of(part, blob, service))
    if not layers:
        return None
    settings = Settings(
        delay_s=wanted.delay_s,
        delay_extra_s=wanted.delay_extra_s,
        bytes_per_s=wanted.max_mib_per_s * _MIB,
        attempts=wanted.try_count,
        step_bytes=wanted.block_size_bytes,
    )
    downloads = Downloads(name, layers, settings)
    downloads.start()
    device.downloads = downloads
    return downloads


def copy_of(part: Source, blob: obdcore.RemoteBlob, service: Service) -> Layer:
    """What brings a remote part to its directory: that of a target is made if need be. Raises `OSError`."""
    from cache.copy import Layer

    lower, is_media = part.lower, service.is_media(part.lower)
    if part.is_target and lower.dir and os.path.isdir(os.path.dirname(lower.dir)):
        os.makedirs(lower.dir, mode=0o755, exist_ok=True)
    return Layer(part.position, lower.dir, lower.digest, part.shown_url, blob, is_media, part.is_target)
