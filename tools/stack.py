"""The layers that an image configuration names, for commands that work on layer files."""

from __future__ import annotations

from tools.errors import Failure, describe
from tools.layer_options import NOT_YET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from obd.config import ImageConfig


class LayerFiles:
    """`lowers`: paths, bottom first; `upper`: data and index file of the writable layer, None without one."""

    def __init__(self, lowers: list[str], upper: tuple[str, str] | None) -> None:
        self.lowers = lowers
        self.upper = upper


def layer_files(config_path: str) -> LayerFiles:
    """The files of the image that the configuration `config_path` describes.

    Raises `Failure` if it is wrong, or if a layer is only in a registry or over an original OCI layer.
    """
    from obd.config import ConfigError, load_image

    try:
        config = load_image(config_path)
        lowers = _lowers(config)
    except (ConfigError, OSError) as error:
        raise Failure(f"failed to create image file: {describe(error)}") from None
    if config.upper.target:
        raise Failure(f"failed to create image file: {config_path}: upper.target: a turboOCI layer {NOT_YET}")
    return LayerFiles(lowers, (config.upper.data, config.upper.index) if config.writable else None)


def _lowers(config: ImageConfig) -> list[str]:
    from obd.locate import locate

    paths = []
    for source in locate(config):
        where = f"failed to create image file: {config.file}: lowers[{source.position}]"
        if source.lower.has_target:
            raise Failure(f"{where}: a turboOCI layer {NOT_YET}")
        if not source.path:
            raise Failure(f"{where}: is on no local path, and reading it from a registry {NOT_YET} here")
        paths.append(source.path)
    return paths
