"""Traces of a device: what its configuration asks to record, or to fetch in advance."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from obd.companions import Companion

if TYPE_CHECKING:
    from obd.config import Lower
    from obd.image import Device
    from obd.service import Service

_log: Final = logging.getLogger("overlaybd.trace")


def start_trace(device: Device, service: Service) -> Companion | None:
    """Records or replays as the configuration of `device` asks, if it does. Raises `OSError`.

    An existing empty file at `recordTracePath` asks for a recording; one with a content, or the trace of the
    acceleration layer, is replayed. A path that does not exist asks for nothing.
    """
    config = device.config
    if config.acceleration_layer and config.lowers:
        layer = config.lowers[-1]
        path = os.path.join(layer.dir, "trace") if layer.dir else ""
        if not _is_filled(path) and not (layer.digest and config.repo_blob_url):
            _log.info("%s: the acceleration layer has no trace", config.file or "image")
            return None
        url = config.blob_url(layer.digest) if layer.digest else ""
        return replay(device, service, lambda: _load_layer(service, path, url, layer), path or layer.digest)
    path = config.record_trace_path
    if not path or not os.path.exists(path):
        return None
    if os.path.getsize(path) == 0:
        return record(device, path)
    return replay(device, service, lambda: _load_file(path), path)


def record(device: Device, path: str) -> Companion:
    """Records into the file `path` what `device` reads, until `path.lock` is removed. Raises `OSError`."""
    from cache.trace import Recording

    recording = Recording(device.native, path)
    device.recording = True
    _log.info("%s: recording a trace of %s", path, device.config.file or "an image")
    return recording


def replay(device: Device, service: Service, load: Callable[[], bytes], name: str) -> Companion | None:
    """Fetches in advance what the trace or list that `load` gives names; `name` is for the log."""
    if device.is_local:
        return None  # all of it is local
    from cache.prefetch import Replay

    cache = service.config.cache
    device.prefetch = Replay(
        device.native,
        load,
        name=name,
        workers=service.config.prefetch.concurrency,
        # What is fetched first must not be pushed out of the cache by what is fetched last.
        max_bytes=0 if cache.type == "download" else max(cache.size_bytes // 2, 1),
    )
    return device.prefetch


def _is_filled(path: str) -> bool:
    try:
        return bool(path) and os.path.getsize(path) > 0
    except OSError:
        return False


def _load_file(path: str) -> bytes:
    from cache.prefetch import load_file

    return load_file(path)


def _load_layer(service: Service, path: str, url: str, layer: Lower) -> bytes:
    """The trace of an acceleration layer: the file in its directory, else out of the registry."""
    from cache.prefetch import load_layer

    if _is_filled(path):
        return _load_file(path)
    return load_layer(service.blob(url, layer), layer.digest)
