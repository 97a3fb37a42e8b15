"""Where a layer is: the first local file that exists, else the registry."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from obd.config import ImageConfig, Lower
from obd.secret import without_secrets

if TYPE_CHECKING:
    import obdcore

# Names under which a layer lies in its directory, in the order in which they count; the second is old.
LAYER_NAMES: Final = ("overlaybd.commit", ".commit", "overlaybd.sealed")
# In the directory of a turboOCI layer: where its target lies, by the same names.
TARGET_DIR: Final = "target"


@dataclass(frozen=True, slots=True)
class Source:
    """Where one lower, or the target of one, comes from: `path` if it is local, else `url`."""

    position: int
    lower: Lower
    path: str
    url: str
    target: Source | None = None
    """The original layer, which a turboOCI layer maps content to."""
    is_target: bool = False

    @property
    def local(self) -> bool:
        """True if the bytes come from a file of this machine."""
        return bool(self.path)

    @property
    def shown_url(self) -> str:
        """The URL as logs and messages show it: without what may be secret."""
        return without_secrets(self.url)

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"the target of layer {self.position}" if self.is_target else f"layer {self.position}"

    @property
    def parts(self) -> tuple[Source, ...]:
        """The blobs of the layer: itself, and its target if it has one."""
        return (self,) if self.target is None else (self, self.target)

    @property
    def nowhere(self) -> str:
        """Why it cannot be had; empty if it can."""
        if self.path or self.url:
            return ""
        return f"{self.title} is in none of its places ({self.lower.dir or self.lower.file})"

    def remotely(self, part: Source) -> Source:
        """The same layer, with a part of it from the registry instead of its file."""
        if part.is_target:
            return replace(self, target=replace(part, path=""))
        return replace(self, path="")

    @property
    def unpacks(self) -> bool:
        """Whether it is of turboOCI, and what its target unpacks to can be kept, by the target's digest."""
        return bool(self.target and self.lower.gzip_index and self.lower.target_digest)

    def native(
        self,
        blob: Callable[[Source], obdcore.RemoteBlob],
        unpacked: Callable[[], obdcore.ChunkCache | None] = lambda: None,
        tree: Callable[[str, Lower], obdcore.MerkleTree | None] = lambda _url, _lower: None,
    ) -> str | tuple[str, obdcore.MerkleTree] | obdcore.RemoteBlob | obdcore.TurboLayer:
        """What the core opens; `blob` gives those of remote parts, `unpacked` the cache behind gzip.

        `tree`: what the files of local layers are held against, as `Service.tree`.
        """
        proof = tree(self.url, self.lower) if self.path else None
        layer, *targets = [part.path or blob(part) for part in self.parts]
        if not targets:
            return (self.path, proof) if proof else layer
        import obdcore

        cache = unpacked() if self.unpacks else None
        index, digest = self.lower.gzip_index or None, self.lower.target_digest
        return obdcore.TurboLayer(layer, targets[0], index, cache=cache, digest=digest)


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

    def source(position: int, lower: Lower, *, is_target: bool = False) -> Source:
        path = next((path for path in candidates(lower) if os.path.exists(path)), "")
        url = config.blob_url(lower.digest) if lower.digest else ""
        target = source(position, target_of(lower), is_target=True) if lower.has_target else None
        return Source(position, lower, path, url, target, is_target)

    return [source(position, lower) for position, lower in enumerate(config.data_lowers)]


def target_of(lower: Lower) -> Lower:
    """The original layer that a turboOCI layer maps content to, as a lower of its own."""
    directory = os.path.join(lower.dir, TARGET_DIR) if lower.dir else ""
    return Lower(file=lower.target_file, dir=directory, digest=lower.target_digest)
