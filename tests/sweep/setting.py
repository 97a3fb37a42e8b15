"""How the programs of the sweep begin: with the shim, in memory, and with nothing that only takes time."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cache.aio
import cache.download
from tests.sweep import shim
from tests.sweep.world import RegistryProcess


def ensure_shim(module: str) -> None:
    """Starts the program again with the shim, unless it has it."""
    if not os.environ.get(shim.VARIABLE):
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, shim.environment(shim.build()))


@contextmanager
def setting() -> Iterator[tuple[Path, str]]:
    """A directory that goes away, and the URL of a registry that has the file `lower` in it."""
    cache.aio._load = lambda: shim.Shim().library
    cache.download._PAUSE_S = 0.01  # type: ignore[misc]
    cache.download._MAX_PAUSE_S = 0.02  # type: ignore[misc]
    random.random = lambda: 0.0
    # In memory where that is to be had: the disk would be waited for a hundred times in every run.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="sweep-", dir=memory) as home:
        registry = RegistryProcess(Path(home))
        try:
            yield Path(home), registry.url
        finally:
            registry.stop()
