"""Snapshots that a process left unfinished when it died: whoever opens the configuration next finishes them.

Without that a restart would open the upper that was frozen, and lack what was written since.
"""

from __future__ import annotations

import logging
import os
from typing import Final

import obdcore
from obd.config import ImageConfig, load_image
from obd.errors import ObdError
from obd.locate import locate
from obd.replace import sync_directory

_log: Final = logging.getLogger("overlaybd.image")


def announced(path: str) -> str:
    """Where the configuration is that a snapshot under way will put in place of `path`."""
    return f"{os.path.realpath(path)}.snapshot-begun"


def resume(config: ImageConfig) -> ImageConfig:
    """`config`, or what is in its place once the snapshot is finished that was begun on it.

    Raises `ObdError`, `obdcore.Error` if that fails: the image must not be opened without it. One that is
    under way in a process that lives is an error of kind "denied".
    """
    if not config.file or not config.writable or not os.path.lexists(announced(config.file)):
        return config
    path, record = os.path.realpath(config.file), announced(config.file)
    next_config = load_image(record)
    if not _follows(next_config, config):
        what = (
            f"a snapshot was begun, but {record} does not follow from this configuration: "
            "put that in its place or remove it, whichever is right"
        )
        raise ObdError("invalid", what, config.file)
    old, new = config.upper, next_config.upper

    def publish() -> None:
        os.replace(record, path)
        sync_directory(path)

    if obdcore.finish_snapshot((old.data, old.index), (new.data, new.index), publish):
        _log.warning("%s: finished a snapshot that had been interrupted", config.file)
        return load_image(config.file)
    # Before the cut: the new upper was removed again.
    os.unlink(record)
    return config


def same_file(one: str, other: str) -> bool:
    """Whether both names, absolute or not, are of one file; "" is of none."""
    if not one or not other:
        return False
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _follows(config: ImageConfig, old: ImageConfig) -> bool:
    position = len(old.data_lowers)
    if not config.writable or len(config.data_lowers) != position + 1:
        return False
    return same_file(locate(config)[position].path, old.upper.data)
