"""Opening the file system of an image, whatever it is named by."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import obdcore
from obd.config import Download, ImageConfig, Lower, Upper, load_image
from obd.errors import ObdError, kind_of
from obd.files.files import Files
from obd.files.name import FORMS
from obd.image import open_device
from obd.oci.layers import layer_kind
from obd.secret import without_secrets

if TYPE_CHECKING:
    from obd.locate import Source
    from obd.oci.descriptor import Descriptor
    from obd.oci.platform import Platform
    from obd.oci.protocols import ImageSource
    from obd.service import Service
    from obd.turbo_meta import Metas

_log: Final = logging.getLogger("overlaybd.files")


def open_files(
    word: str,
    service: Service,
    *,
    partition: int | None = None,
    layers: int | None = None,
    platform: Platform | None = None,
    plain_http: bool = False,
) -> Files:
    """The files of the image that `word` names (`obd.files.name.FORMS`), read lazily.

    `partition`: of a whole disk that one. `layers`: only so many of its lowers, counted from the bottom.
    `platform`: of an index the image for that, not for this machine. Raises `OSError`.
    """
    config = image_config(word, service, platform=platform, plain_http=plain_http)
    if layers is not None:
        there = len(config.lowers)
        if not 0 < layers <= there:
            raise ObdError("invalid", f"{layers} layers are asked for, there are {there}", _name(word))
        config = replace(config, lowers=config.lowers[:layers], upper=Upper())
    device = open_device(config, service, sparing=True)
    try:
        names = [_identity(source) for source in device.sources]
        native = obdcore.FileSystem(device.native, partition=partition, layers=names)
    except obdcore.Error as error:
        device.close()
        raise ObdError(kind_of(error), error.what, _name(word)) from None
    except BaseException:
        device.close()
        raise
    if native.needs_recovery:
        _log.warning("%s: was in use when it was taken: what was written last may be missing", _name(word))
    return Files(_name(word), device, native)


def image_config(
    word: str, service: Service, *, platform: Platform | None = None, plain_http: bool = False
) -> ImageConfig:
    """The configuration of the image `word`, without what works beside a device. Raises `OSError`."""
    if os.path.isfile(word):
        with open(word, "rb") as file:
            is_config = file.read(64).lstrip()[:1] == b"{"
        config = load_image(word) if is_config else ImageConfig(lowers=(Lower(file=os.path.abspath(word)),))
    else:
        config = _config_of_image(word, service, platform, plain_http)
    return replace(
        config,
        lowers=config.data_lowers,
        acceleration_layer=False,
        record_trace_path="",
        result_file="",
        download=Download(enable=False),
    )


def _config_of_image(word: str, service: Service, platform: Platform | None, plain_http: bool) -> ImageConfig:
    from obd import manifest
    from obd.oci import open_source, own_platform
    from obd.oci.name import Local, parse_name
    from obd.turbo_meta import META_DIR, Metas

    try:
        place = parse_name(word, plain_http=plain_http)
    except ObdError as error:
        raise ObdError("invalid", f"{error.what.split(':')[0]}: neither a file nor {FORMS}") from None
    wanted = platform or own_platform()
    if not isinstance(place, Local):
        return manifest.image_config(service.registry(), place, wanted)
    with open_source(word, service) as source:
        metas = Metas(source, META_DIR)
        layers = manifest.overlaybd_layers(source, wanted)
        return ImageConfig(lowers=tuple(_in_place(source, layer, metas) for layer in layers))


def _in_place(source: ImageSource, layer: Descriptor, metas: Metas) -> Lower:
    """A layer of a layout on this machine, as a lower."""

    def path(digest: str) -> str:
        found = source.path(replace(layer, digest=digest))
        if found is None:
            raise ObdError("unsupported", "layers in an archive cannot be read in place", source.name)
        return os.path.abspath(found)

    if layer_kind(layer) != "turboOCI":
        return Lower(file=path(layer.digest))
    lower = metas.lower(layer)
    return Lower(file=lower.file, target_file=path(lower.target_digest), gzip_index=lower.gzip_index)


def _identity(source: Source) -> str:
    """A name that only the same bytes have: of a remote layer its digest, of a local one the file."""
    lower = source.lower
    target = f"{lower.target_file} {lower.target_digest}" if lower.has_target else ""
    if not source.local:
        return f"{lower.digest} {target}"
    found = os.stat(source.path)
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns} {target}"


def _name(word: str) -> str:
    return without_secrets(word)
