"""How the programs of the sweep begin: with the shim, in memory, and with nothing that only takes time."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import cache.aio
import cache.download
import obd.oci.patience
from tests.sweep import shim
from tests.sweep.machine import scrubbed
from tests.sweep.world import RegistryProcess

T = TypeVar("T")


def ensure_shim(module: str) -> None:
    """Starts the program again with the shim, unless it has it."""
    if not os.environ.get(shim.VARIABLE):
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, shim.environment(shim.build()))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the programs of the sweep have in common."""
    parser.add_argument("--every", type=int, default=1, metavar="N")
    parser.add_argument("--shard", action="append", default=[], metavar="I/N", help="again: a part of that")
    parser.add_argument("--done", type=Path, metavar="FILE", help="goes on where those who wrote it ended")


def part_of(all_of_them: list[T], shards: list[str], every: int) -> list[T]:
    """Those that are to be tried."""
    for shard in shards:
        number, _, count = shard.partition("/")
        all_of_them = all_of_them[int(number) - 1 :: int(count)]
    return all_of_them[::every]


class Done:
    """What has been tried, with what came of it, in a file that several programs may write to."""

    def __init__(self, path: Path | None) -> None:
        self._path: Final = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self._known: Final = {line.partition("\t")[0] for line in lines}

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def add(self, name: str, outcome: str) -> None:
        """Notes it."""
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(f"{name}\t{outcome}\n")


@contextmanager
def setting() -> Iterator[tuple[Path, str]]:
    """A directory that goes away, and the URL of a registry that has the file `lower` in it."""
    cache.aio._load = lambda: shim.Shim().library
    cache.download._PAUSE_S = 0.01  # type: ignore[misc]
    cache.download._MAX_PAUSE_S = 0.02  # type: ignore[misc]
    obd.oci.patience.PAUSE_S = 0.01  # type: ignore[misc]
    random.random = lambda: 0.0
    # In memory where that is to be had: the disk would be waited for a hundred times in every run.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="sweep-", dir=memory) as home, scrubbed(Path(home)):
        registry = RegistryProcess(Path(home))
        try:
            yield Path(home), registry.url
        finally:
            registry.stop()
