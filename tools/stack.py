"""The layers that an image configuration names, for commands that work on layers and not on a device."""

from __future__ import annotations

from tools.errors import Failure, describe
from tools.layer_options import NOT_YET

TYPE_CHECKING = False
if TYPE_CHECKING:
    import obdcore
    from obd.config import ImageConfig
    from obd.locate import Source


class Stack:
    """`lowers`: paths and blobs, bottom first; `upper`: data and index of the writable layer, or None."""

    def __init__(self, lowers: list[str | obdcore.RemoteBlob], upper: tuple[str, str] | None) -> None:
        self.lowers = lowers
        self.upper = upper

    def files(self) -> list[str]:
        """All of its layers that are files."""
        return [*(lower for lower in self.lowers if isinstance(lower, str)), *(self.upper or ())]


def load_stack(config_path: str, service_path: str | None) -> Stack:
    """The layers of the image that the configuration `config_path` describes, not opened yet.

    The service configuration `service_path` (None: the host's, if it has one) is read only if a layer is in a
    registry. Raises `Failure` for a configuration that is wrong or asks for what is not there.
    """
    from obd.config import load_image

    try:
        config = load_image(config_path)
        lowers = _lowers(config, service_path)
    except OSError as error:
        raise Failure(f"failed to create image file: {describe(error)}") from None
    if config.upper.target:
        raise Failure(f"failed to create image file: {config_path}: upper.target: a turboOCI layer {NOT_YET}")
    return Stack(lowers, (config.upper.data, config.upper.index) if config.writable else None)


def _lowers(config: ImageConfig, service_path: str | None) -> list[str | obdcore.RemoteBlob]:
    from obd.locate import locate

    sources = locate(config)
    for source in sources:
        if source.lower.has_target:
            raise Failure(f"{_where(config, source)}: a turboOCI layer {NOT_YET}")
        if not source.path and not source.url:
            raise Failure(f"{_where(config, source)}: is in none of its places, and there is no URL for it")
    if all(source.path for source in sources):
        return [source.path for source in sources]
    from obd.service import Service

    service = Service(service_path)
    return [source.path or service.blob(source.url, source.lower) for source in sources]


def _where(config: ImageConfig, source: Source) -> str:
    return f"failed to create image file: {config.file}: lowers[{source.position}]"
