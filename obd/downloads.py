"""The background download of a device: what the configurations ask for, given to the room `cache`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cache.download import Downloads
    from obd.image import Device
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
    from cache.copy import Layer
    from cache.download import Downloads, Settings

    layers = []
    for source in device.sources:
        blob, lower = device.blobs.get(source.position), source.lower
        if blob is None or lower.has_target:
            continue
        if not lower.dir:
            _log.warning("%s: layer %d has no dir: it is not downloaded", name, source.position)
            continue
        is_media = service.is_media(lower)
        layers.append(Layer(source.position, lower.dir, lower.digest, source.shown_url, blob, is_media))
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
