"""What this process has open: of a test's own files, since those of others are closed at any time."""

import os
from contextlib import suppress
from pathlib import Path


def opened(beginning: Path | str) -> list[str]:
    """What its descriptors are of, in order, where that begins so: a directory's path, or `pipe:`."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(each for each in found if each.startswith(str(beginning)))
