"""Configurations: whether they are right, and whether what they name is there."""

import os
from collections.abc import Iterator

from obd.config import (
    DEFAULT_SERVICE_FILE,
    ConfigError,
    ImageConfig,
    load_image,
    load_service,
    named_files,
    service_warnings,
)
from obd.doctor import Finding
from obd.errors import line_of
from obd.locate import locate

CHECK = "obd config check"


def check_service(path: str | None) -> Iterator[Finding]:
    """The service configuration, and the files that it names."""
    try:
        config = load_service(path)
    except ConfigError as error:
        fix = f"correct it; {CHECK} tells if it is right"
        yield Finding("problem", "configuration", line_of(error), fix)
        return
    if not config.file:
        yield Finding("ok", "configuration", f"no {DEFAULT_SERVICE_FILE}: the defaults count")
        return
    yield Finding("ok", "configuration", f"{config.file} is right")
    for line in service_warnings(config):
        yield Finding(
            "warning", "configuration", f"{config.file}: {line}", "correct it, or leave it as it is"
        )
    for key, file in named_files(config):
        if not os.access(file, os.R_OK):
            fix = "create it, or correct the key"
            yield Finding("problem", "configuration", f"{config.file}: {key}: cannot read {file}", fix)


def check_images(paths: list[str]) -> Iterator[Finding]:
    """Image configurations, and the local files that they name."""
    for path in paths:
        try:
            config = load_image(path)
        except ConfigError as error:
            yield Finding(
                "problem", "configuration", line_of(error), f"correct it; {CHECK} tells if it is right"
            )
            continue
        faults = list(_missing(config))
        yield from faults
        for key in config.unknown_keys:
            what = f"{path}: unknown key {key} is ignored"
            yield Finding("warning", "configuration", what, "correct or remove it")
        if not faults:
            local = sum(all(part.local for part in source.parts) for source in locate(config))
            remote = len(config.data_lowers) - local
            yield Finding("ok", "configuration", f"{path}: {local} layers are here, {remote} in a registry")


def _missing(config: ImageConfig) -> Iterator[Finding]:
    for part in (part for source in locate(config) for part in source.parts):
        if part.nowhere:
            fix = "put it there, or give repoBlobUrl and its digest"
            yield Finding("problem", "configuration", f"{config.file}: {part.nowhere}", fix)
        elif part.local and not os.access(part.path, os.R_OK):
            yield Finding(
                "problem", "configuration", f"{config.file}: cannot read {part.path}", "run it as root"
            )
    for index in (*(lower.gzip_index for lower in config.data_lowers), config.upper.gzip_index):
        if index and not os.access(index, os.R_OK):
            what = f"{config.file}: gzipIndex: cannot read {index}"
            yield Finding("problem", "configuration", what, "make it with turboOCI-apply or obd convert")
    if config.writable:
        for file in (config.upper.data, config.upper.index, config.upper.target):
            if file and not os.path.exists(file):
                yield Finding(
                    "problem", "configuration", f"{config.file}: no upper {file}", "overlaybd-create"
                )
