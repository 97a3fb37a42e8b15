"""The layers that an image configuration names, for commands that work on layers and not on a device."""

from __future__ import annotations

from tools.errors import Failure, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    import obdcore
    from obd.config import ImageConfig
    from obd.locate import Source
    from obd.service import Service

    Upper = tuple[str, str] | tuple[str, str, str, str | None]


class Stack:
    """`lowers`, bottom first, and `upper`, the writable layer or None, as `obdcore.Image` takes them."""

    def __init__(
        self,
        lowers: list[str | tuple[str, obdcore.MerkleTree] | obdcore.RemoteBlob | obdcore.TurboLayer],
        upper: Upper | None,
        local: list[str],
    ) -> None:
        self.lowers = lowers
        self.upper = upper
        self._local = local

    def files(self) -> list[str]:
        """All of its layers that are files."""
        return [*self._local, *(path for path in self.upper or () if path)]


def load_stack(config_path: str, service_path: str | None) -> Stack:
    """The layers of the image that the configuration `config_path` describes, not opened yet.

    The service configuration `service_path` (None: the host's, if it has one) is read only if a layer is in a
    registry. Raises `Failure` for a configuration that is wrong or asks for what is not there.
    """
    from obd.config import load_image
    from obd.image import upper_files
    from obd.locate import locate

    try:
        config = load_image(config_path)
        sources = locate(config)
        lowers = _lowers(config, sources, service_path)
    except OSError as error:
        raise Failure(f"failed to create image file: {describe(error)}") from None
    local = [part.path for source in sources for part in source.parts if part.path]
    return Stack(lowers, upper_files(config), local)


def _lowers(
    config: ImageConfig, sources: list[Source], service_path: str | None
) -> list[str | tuple[str, obdcore.MerkleTree] | obdcore.RemoteBlob | obdcore.TurboLayer]:
    parts = [part for source in sources for part in source.parts]
    for part in parts:
        if part.nowhere:
            raise Failure(
                f"failed to create image file: {config.file}: lowers[{part.position}]: {part.nowhere}, "
                "and there is no URL for it"
            )

    service: Service | None = None

    def blob(part: Source) -> obdcore.RemoteBlob:
        nonlocal service
        if service is None:
            from obd.service import Service

            service = Service(service_path)
        return service.blob(part.url, part.lower)

    return [source.native(blob) for source in sources]
