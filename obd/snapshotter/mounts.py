"""The mounts by which containerd sees a snapshot."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obd.snapshotter.layout import Layout


@dataclass(frozen=True, slots=True)
class Mount:
    """One call of mount(2), which containerd makes."""

    type: str
    source: str
    options: tuple[str, ...]


def bind(path: str, *, rw: bool) -> Mount:
    """A directory as it is."""
    return Mount("bind", path, ("rw" if rw else "ro", "rbind"))


def overlay(layout: Layout, number: int, lowers: list[str]) -> Mount:
    """The own directory of an active snapshot over others, the topmost first."""
    options = ("index=off",) if has_index() else ()
    own = (f"workdir={layout.work(number)}", f"upperdir={layout.fs(number)}", f"lowerdir={':'.join(lowers)}")
    return Mount("overlay", "overlay", (*options, *own))


def device(path: str, fs_type: str) -> Mount:
    """A device that containerd mounts by itself."""
    return Mount(fs_type, path, ("rw", "discard"))


def shown(layout: Layout, number: int, lowers: list[str], *, view: bool) -> Mount:
    """A snapshot over directories, the topmost first, as containerd's own overlayfs snapshotter has it."""
    if not view:
        return overlay(layout, number, lowers) if lowers else bind(layout.fs(number), rw=True)
    if len(lowers) > 1:
        options = ("index=off",) if has_index() else ()
        return Mount("overlay", "overlay", (*options, f"lowerdir={':'.join(lowers)}"))
    return bind(lowers[0] if lowers else layout.fs(number), rw=False)


@cache
def has_index() -> bool:
    """Whether overlayfs has the option `index`, which must be off where lowers are shared."""
    return os.path.exists("/sys/module/overlay/parameters/index")
