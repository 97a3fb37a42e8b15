"""The work directory: finished layers under final names, and a directory for each run that dies with it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from types import TracebackType
from typing import Final, Self

from obd.convert.record import Made, Records, remove_unused

# Layers of an interrupted run are there for the next one so long.
_KEEP_LAYERS_S: Final = 7 * 24 * 3600


def usual_directory() -> str:
    """Where conversions work if nobody says where: /var/lib for root, the user's cache for others."""
    if os.geteuid() == 0:
        return "/var/lib/overlaybd/convert"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "overlaybd", "convert")


class Work:
    """One run's share of a work directory, which any number of runs may use at once.

    `path` is the run's own directory, gone at its end. A run that was killed leaves its directory, but not
    its lock: the next one removes it. Finished layers get their names in one step.
    """

    def __init__(self, directory: str = "") -> None:
        home = directory or usual_directory()
        self._layers = os.path.join(home, "layers")
        self._runs = os.path.join(home, "runs")
        for each in (home, self._layers, self._runs):
            os.makedirs(each, mode=0o700, exist_ok=True)
        self.records: Final = Records(os.path.join(home, "records"))
        self._shared: list[str] = []
        self.path, self._lock = self._begin()
        self._clean(os.path.join(home, "records"))

    def _begin(self) -> tuple[str, int]:
        while True:
            path = os.path.join(self._runs, os.urandom(8).hex())
            # The lock first, beside the directory: whoever finds the one finds the other locked.
            fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                try:
                    os.mkdir(path, 0o700)
                except BaseException:
                    os.unlink(f"{path}.lock")
                    os.close(fd)
                    raise
                return path, fd
            os.close(fd)  # another run took it for one that was left

    def _clean(self, records: str) -> None:
        """Removes what killed runs left, and what nobody came back for."""
        for name in os.listdir(self._runs):
            lock = os.path.join(self._runs, name)
            if not name.endswith(".lock"):
                if not os.path.exists(f"{lock}.lock"):
                    # Its run ended while something was still being written there.
                    shutil.rmtree(lock, ignore_errors=True)
                continue
            with contextlib.suppress(OSError):  # another run may be cleaning too
                fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(lock.removesuffix(".lock"), ignore_errors=True)
                    os.unlink(lock)
                finally:
                    os.close(fd)
        remove_unused(self._layers, _KEEP_LAYERS_S)
        remove_unused(records)

    def temporary(self, name: str) -> str:
        """The path of a file that only this run has."""
        return os.path.join(self.path, name)

    def finished(self, key: str, made: Made) -> str | None:
        """The file of a layer that an interrupted run finished, as a name of this run's own; None without."""
        own = self._own(key)
        with contextlib.suppress(OSError):
            os.link(self._shared_name(key), own)
            with open(own, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._shared.append(self._shared_name(key))
            if f"sha256:{digest}" == made.digest:
                return own
            # Torn by a crash of the machine.
            os.unlink(self._shared_name(key))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(own)
        return None

    def finish(self, key: str, path: str, made: Made) -> str:
        """Keeps the finished layer in the file `path`; returns its new name, good until the run ends."""
        own = self._own(key)
        os.rename(path, own)
        with contextlib.suppress(FileExistsError):
            os.link(own, self._shared_name(key))
        self._shared.append(self._shared_name(key))
        # After the file, without which the record would say nothing that is there.
        self.records.put(key, made)
        return own

    def done(self) -> None:
        """The image is in its destination: the finished layers need not stay."""
        while self._shared:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._shared.pop())

    def close(self) -> None:
        """Removes the run's own directory."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # one that stays is removed by the next run
            os.unlink(f"{self.path}.lock")
        os.close(self._lock)

    def _own(self, key: str) -> str:
        """A name for a layer, a new one each time: images of one run may have layers in common."""
        return self.temporary(f"{key}.{os.urandom(4).hex()}.layer")

    def _shared_name(self, key: str) -> str:
        return os.path.join(self._layers, key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
