"""Floor 2: configuration, credentials, registry, image and device life.

`obd.open(config)` gives a block device; everything else is in the modules.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obd.config import ImageConfig
    from obd.image import Device
    from obd.service import Service


def open(
    config: "str | os.PathLike[str] | ImageConfig", service: "Service | str | os.PathLike[str] | None" = None
) -> "Device":
    """Opens an image as a block device.

    `config` is an image configuration or the path of one. `service` holds what the images of a process share;
    a path is that of a service configuration, None means the host's. The outcome is also written to the
    `resultFile` of the configuration. Raises `obd.errors.ObdError`, an `OSError` with `kind` and `file`.
    """
    from obd.image import open_device

    return open_device(config, service)
