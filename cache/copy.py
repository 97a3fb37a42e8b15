"""One layer's way into its directory: fetched in order, checked against its digest, then put in place."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cache.direct import ALIGNMENT, DirectFile, Slot
from cache.partial import BAD_NAME, COMMIT_NAME, Partial
from cache.verify import Hasher

_log: Final = logging.getLogger("overlaybd.download")

# How often the bytes so far are made durable and recorded: what a crash can lose.
RECORD_S: Final = 1.0
# Room that a download leaves on the file system of its directory.
SPARE_BYTES: Final = 64 << 20


class Blob(Protocol):
    """What of `obdcore.RemoteBlob` a download uses."""

    @property
    def size(self) -> int:
        """Bytes of the blob."""

    @property
    def local(self) -> str | None:
        """The file that reads go to, if they do."""

    def readinto_at(self, buffer: memoryview, offset: int, /) -> int:
        """Reads, and keeps in the cache."""

    def copy_into(self, buffer: memoryview, offset: int, /) -> int:
        """Reads for a copy."""

    def fill(self, offset: int, length: int, /) -> None:
        """Has a range in the cache."""

    def missing(self, offset: int, length: int, /) -> Sequence[tuple[int, int]]:
        """What of a range is not in the cache."""

    def distrust(self, offset: int, length: int, /) -> object:
        """Drops what is cached of a range."""

    def switch_to(self, path: str, on_failure: Callable[[str], None], /) -> None:
        """Has reads go to a file."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A remote layer that has a directory on this machine."""

    position: int
    directory: str
    digest: str
    url: str
    """For messages: without secrets."""
    blob: Blob
    is_media: bool = False
    """Whether the blob is cached in the very file that a download makes (cacheType `download`)."""
    is_target: bool = False
    """Whether it is not the layer at that position but the target of one of turboOCI."""


Proceed = Callable[[], object]
Pieces = Callable[[int, Callable[[], Slot]], Iterator[tuple[Slot, int, int]]]
"""Given where to start and where slots are to be had: slots with count and offset, in order to the end."""
Fills = Callable[[], Iterator[int]]
"""Fills the file in which a blob is cached, and gives how far it is, in order to the end."""


class WrongDigest(OSError):
    """The registry's bytes are not those that the digest names."""

    kind = "corrupt"


class Copy:
    """Puts a layer's bytes in place as `overlaybd.commit`; goes on where an earlier one stopped."""

    def __init__(self, layer: Layer, pieces: Pieces, fills: Fills, *, slots: int, slot_bytes: int) -> None:
        """`slots` of `slot_bytes`: the memory it takes while it runs. Raises `ValueError`: see `Hasher`."""
        Hasher(layer.digest)
        self.layer: Final = layer
        self.path: Final = os.path.join(layer.directory, COMMIT_NAME)
        self.done = 0
        """Bytes that are in place."""
        self._pieces: Final = pieces
        self._fills: Final = fills
        self._memory: Final = (slots, slot_bytes)

    def run(self, proceed: Proceed) -> bool:
        """Whether the layer is in place, which it is not if somebody else downloads it just now.

        `proceed()` is called between steps and may raise to end this; what has come is kept. Raises
        `OSError`, and `WrongDigest`, after which nothing is left of it.
        """
        if self._is_there(proceed):
            return True
        partial = Partial.lock(self.layer.directory)
        if partial is None:
            return False
        try:
            if os.path.exists(self.path):
                if self._is_there(proceed):
                    return True
                bad = os.path.join(self.layer.directory, BAD_NAME)
                _log.warning("%s is not %s: renamed to %s", self.path, self.layer.digest, BAD_NAME)
                os.rename(self.path, bad)
            if not partial.claim(shared=self.layer.is_media):
                return False
            if self.layer.is_media:
                self._fill(partial, proceed)
            else:
                self._fetch(partial, proceed)
            self._finish(partial)
            return True
        finally:
            partial.release()

    def _finish(self, partial: Partial) -> None:
        try:
            partial.finish()
        except OSError:
            # What could not be made durable reads right until the power goes: it is written anew.
            if self.layer.is_media:
                self.layer.blob.distrust(0, self.layer.blob.size)
            else:
                partial.discard()
            raise

    def _is_there(self, proceed: Proceed) -> bool:
        """Whether somebody has put the layer in place: its bytes count, not its name."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            size, hasher = self.layer.blob.size, Hasher(self.layer.digest)
            if os.fstat(fd).st_size != size or not hasher.read(fd, size, lambda _: proceed()):
                return False
        finally:
            os.close(fd)
        if hasher.right:
            self.done = size
        return hasher.right

    def _fill(self, partial: Partial, proceed: Proceed) -> None:
        """Completes the file that reads fill too, then reads all of it."""
        blob, hasher = self.layer.blob, Hasher(self.layer.digest)
        self._check_room(sum(length for _, length in blob.missing(0, blob.size)))
        for end in self._fills():
            self.done = end
            proceed()
        with open(partial.path, "rb", buffering=0) as file:
            hasher.read(file.fileno(), blob.size, lambda _: proceed())
        self._judge(hasher)

    def _fetch(self, partial: Partial, proceed: Proceed) -> None:
        size, digest, hasher = self.layer.blob.size, self.layer.digest, Hasher(self.layer.digest)
        done = partial.prepare(digest, size)
        done -= done % ALIGNMENT if done < size else 0
        self._check_room(size - done)
        if done:
            with open(partial.path, "rb", buffering=0) as file:
                hasher.read(file.fileno(), done, lambda _: proceed())
        self.done = done
        slots, slot_bytes = self._memory
        target = DirectFile(partial.path, slots=slots, slot_bytes=slot_bytes)
        try:
            noted_at = time.monotonic()
            for slot, count, offset in self._pieces(done, target.take):
                hasher.update(slot.view[:count])
                target.write(slot, count, offset)
                self.done = offset + count
                if time.monotonic() - noted_at > RECORD_S:
                    target.sync()
                    partial.record(digest, size, self.done)
                    noted_at = time.monotonic()
                proceed()
            target.sync()
        except BaseException:
            self._keep(partial, target)
            raise
        finally:
            target.close()
        if not hasher.right:
            partial.discard()
        self._judge(hasher)

    def _judge(self, hasher: Hasher) -> None:
        if not hasher.right:
            self.layer.blob.distrust(0, self.layer.blob.size)
            self.done = 0
            what = f"{self.layer.url}: the registry's bytes are {hasher.found}, not {self.layer.digest}"
            raise WrongDigest(errno.EIO, what)

    def _keep(self, partial: Partial, target: DirectFile) -> None:
        """Notes how far it came, before it ends with an exception."""
        if target.failed:
            return  # once a sync has failed the next may succeed though what was to be written is lost
        try:
            target.sync()
            partial.record(self.layer.digest, self.layer.blob.size, self.done)
        except OSError as error:
            # The bytes since the last record are lost; the exception that is under way says more.
            _log.debug("%s: %s", partial.path, error)

    def _check_room(self, needed: int) -> None:
        room = os.statvfs(self.layer.directory)
        free = room.f_bavail * room.f_frsize
        if free < needed + SPARE_BYTES:
            what = f"{needed} bytes to come, {SPARE_BYTES} to be left, and only {free} free"
            raise OSError(errno.ENOSPC, what, self.layer.directory)
