"""Which of the two kinds of configuration a file is: told by its keys, not by its name."""

import dataclasses
import os
from typing import Any

from obd.config.errors import ConfigError
from obd.config.image import ImageConfig, parse_image
from obd.config.service import ServiceConfig, parse_service
from obd.config.strict_json import read_object


def load_any(path: str | os.PathLike[str]) -> ImageConfig | ServiceConfig:
    """Reads and checks a configuration of either kind. Raises `ConfigError`."""
    name = os.fspath(path)
    root = read_object(name)
    if root and not root.keys() & (_keys(ImageConfig) | _keys(ServiceConfig)):
        raise ConfigError("none of its keys is one of an image's or a service's configuration", file=name)
    return parse_service(root, name) if is_service(root) else parse_image(root, name)


def is_service(root: dict[str, Any]) -> bool:
    """True if more keys of `root` are those of a service than of an image, or if all are shared by both."""
    image, service = (_keys(cls) for cls in (ImageConfig, ServiceConfig))
    points = len((service - image) & root.keys()) - len((image - service) & root.keys())
    return points > 0 or (points == 0 and root.keys() <= service & image)


def _keys(cls: type) -> set[str]:
    return {field.metadata["key"] for field in dataclasses.fields(cls) if "key" in field.metadata}
