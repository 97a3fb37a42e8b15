"""What is known of layers that were converted before: one small file for each, under its key."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from obd.config.image import is_digest
from obd.errors import about
from obd.oci.temporary import Temporary, clear, write_all

# Records and layers that nobody asked for in so long are dropped.
KEEP_S: Final = 90 * 24 * 3600
_MAX_BYTES: Final = 64 << 10
_MAX_PLACES: Final = 64


@dataclass(frozen=True, slots=True)
class Made:
    """A converted layer: its blob, and `places`, the repositories that it was last put into.

    `kind` is "native" or "turbo"; of a native one `diff_id` is the digest. `gzip`: one of turboOCI is over a
    gzip, whatever that is called.
    """

    digest: str
    size: int
    diff_id: str
    kind: str
    places: tuple[str, ...] = ()
    gzip: bool = False


class Records:
    """The records in a directory. None is trusted further than that the blob is looked for."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        os.makedirs(directory, mode=0o700, exist_ok=True)
        clear(directory)

    def get(self, key: str) -> Made | None:
        """What is recorded under `key`; None for nothing, or nothing that makes sense."""
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                made = _made(json.loads(file.read(_MAX_BYTES)))
            os.utime(path)
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None
        return made

    def put(self, key: str, made: Made) -> None:
        """Records a layer, in addition to the places that are known already."""
        old = self.get(key)
        if old is not None and old.digest == made.digest:
            others = [place for place in old.places if place not in made.places]
            places = (*made.places, *others)[:_MAX_PLACES]
            made = replace(made, places=places)
            if made == old:
                return
        with about(self._directory), Temporary(self._directory) as file:
            write_all(file.fd, json.dumps(asdict(made)).encode(), 0)
            file.publish(self._path(key), replace=True)

    def _path(self, key: str) -> str:
        return os.path.join(self._directory, f"{key}.json")


def _made(found: dict[str, Any]) -> Made:
    made = Made(
        str(found["digest"]),
        int(found["size"]),
        str(found["diff_id"]),
        str(found["kind"]),
        tuple(str(place) for place in found["places"][:_MAX_PLACES]),
        # An earlier version did not say so: such layers are made again.
        bool(found["gzip"]) if found["kind"] == "turbo" else False,
    )
    if not is_digest(made.digest) or not is_digest(made.diff_id) or made.size <= 0:
        raise ValueError("not a record")
    if made.kind not in ("native", "turbo"):
        raise ValueError("not a record")
    return made


def remove_unused(directory: str, keep_s: float = KEEP_S) -> None:
    """Removes the files in a directory that were neither used nor changed for so long."""
    oldest = time.time() - keep_s
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < oldest:
                    os.unlink(entry.path)
