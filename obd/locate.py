"""Where a layer is: the first local file that exists, else the registry."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from obd.config import ImageConfig, Lower
from obd.secret import without_secrets

# Names under which a layer lies in its directory, in the order in which they count; the second is old.
LAYER_NAMES: Final = ("overlaybd.commit", ".commit", "overlaybd.sealed")


@dataclass(frozen=True, slots=True)
class Source:
    """Where one lower comes from: `path` if it is local, else `url`."""

    position: int
    lower: Lower
    path: str
    url: str

    @property
    def local(self) -> bool:
        """True if the bytes come from a file of this machine."""
        return bool(self.path)

    @property
    def shown_url(self) -> str:
        """The URL as logs and messages show it: without what may be secret."""
        return without_secrets(self.url)


def candidates(lower: Lower) -> Iterator[str]:
    """The local paths at which `lower` may be, in order. An empty `dir` adds none."""
    if lower.file:
        yield lower.file
    if lower.dir:
        for name in LAYER_NAMES:
            yield os.path.join(lower.dir, name)


def locate(config: ImageConfig) -> list[Source]:
    """The source of each data lower, bottom first. Only looks whether files exist; asks no registry.

    A source with neither path nor url is a lower that is nowhere.
    """
    sources = []
    for position, lower in enumerate(config.data_lowers):
        path = next((path for path in candidates(lower) if os.path.exists(path)), "")
        url = config.blob_url(lower.digest) if lower.digest else ""
        sources.append(Source(position, lower, path, url))
    return sources
