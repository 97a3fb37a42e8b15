"""What a conversion is asked to do, and what came of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

# Raised whenever the same input would give other bytes than before.
FORMAT: Final = 1
GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`vsize_bytes` 0: chosen by the content. `platforms`: `os/architecture[/variant]`, none: this machine's.

    `jobs` 0: one for each processor. `work` "": the usual directory. `reuse` False: as if nothing had ever
    been converted. `merkle`: native layers get hash trees.
    """

    turbo: bool = False
    fs: str = "ext4"
    algorithm: str = "lz4"
    block_kib: int = 4
    vsize_bytes: int = 0
    platforms: tuple[str, ...] = ()
    all_platforms: bool = False
    jobs: int = 0
    referrer: bool = False
    index: bool = False
    merkle: bool = False
    work: str = ""
    reuse: bool = True

    @property
    def threads(self) -> int:
        """How many may work at once."""
        return self.jobs or len(os.sched_getaffinity(0))

    @property
    def compress(self) -> dict[str, Any]:
        """How layers are compressed, as the core takes it. The bytes do not depend on the threads."""
        return {
            "algorithm": self.algorithm,
            "block_size": self.block_kib << 10,
            "checksum": True,
            "overwrite_header": True,
            "threads": self.threads,
        }

    def parameters(self) -> dict[str, object]:
        """What the bytes of a layer depend on besides content, virtual size and the version of libext2fs."""
        kind = "turbo" if self.turbo else "native"
        own = {"format": FORMAT, "kind": kind, "fs": self.fs, "block": self.block_kib}
        return {**own, "algorithm": self.algorithm}

    def said(self) -> str:
        """The parameters, and what else the image depends on, as the annotation of an image says them."""
        words = [f"{name}={value}" for name, value in sorted(self.parameters().items())]
        others = [word for word in ("merkle", "referrer") if getattr(self, word)]
        return " ".join([*words, f"vsize={self.vsize_bytes or 'auto'}", *others])


@dataclass(frozen=True, slots=True)
class LayerResult:
    """A layer of the new image. `how` it came to be there: "built", or "reused" without being built."""

    digest: str
    size: int
    source: str
    how: str


@dataclass(frozen=True, slots=True)
class ImageResult:
    """The image of one platform. Of one that was there `vsize_bytes` is 0, and `source` of its layers ""."""

    platform: str
    digest: str
    size: int
    source: str
    layers: tuple[LayerResult, ...]
    vsize_bytes: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What is in the destination now; `unchanged` if all of it was there before."""

    digest: str
    size: int
    media_type: str
    unchanged: bool
    images: tuple[ImageResult, ...]
