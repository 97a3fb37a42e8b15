"""Recording a trace into a file, by the protocol that upstream's clients know: `T`, `T.lock`, `T.ok`."""

from __future__ import annotations

import logging
import os
import threading
from typing import Final

import obdcore

_log: Final = logging.getLogger("overlaybd.trace")

# How often to look whether the client has taken the lock file away.
POLL_S: Final = 0.25
# How often what there is goes to the side file: the most that a crash costs.
SAVE_S: Final = 10.0


class Recording:
    """Records what an image reads into the file `path` until `path.lock` is removed, or until `stop`.

    The client has created `path`, empty, and waits for `path.ok`. Until then `path` stays empty; what there
    is so far is in `path.partial`, a trace of its own, which is left over only by a crash.
    """

    def __init__(self, image: obdcore.Image, path: str) -> None:
        """Begins. Raises `OSError` if the lock file cannot be made, or if the image is being recorded."""
        self.path: Final = path
        self._image: Final = image
        self._stop: Final = threading.Event()
        # Of an earlier run: a client that sees it would take the trace for finished.
        _remove(path + ".ok")
        os.close(os.open(path + ".lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        try:
            image.start_recording()
        except BaseException:
            _remove(path + ".lock")
            raise
        self._thread = threading.Thread(target=self._run, name="trace", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the recording and writes the trace, if that has not been done. Never raises."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        partial = self.path + ".partial"
        unsaved_s, saved = 0.0, 0
        try:
            while os.path.lexists(self.path + ".lock") and not self._stop.wait(POLL_S):
                unsaved_s += POLL_S
                if unsaved_s >= SAVE_S:
                    unsaved_s, saved = 0.0, self._save(partial, saved)
        finally:
            self._finish()
            _remove(partial)

    def _save(self, partial: str, saved: int) -> int:
        """Writes what there is so far to the side file if it is more than `saved` bytes; its size."""
        data, _ = self._image.recorded()
        if len(data) > saved:
            try:
                write_file(partial, data, like=self.path)
            except OSError as error:
                _log.warning("%s: what is recorded so far cannot be kept: %s", partial, error.strerror)
        return len(data)

    def _finish(self) -> None:
        try:
            _, truncated = self._image.recorded()
            data = self._image.stop_recording()
            if truncated:
                _log.warning("%s: the trace is full: later reads are not in it", self.path)
            write_file(self.path, data, like=self.path)
            _remove(self.path + ".lock")
            os.close(os.open(self.path + ".ok", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        except OSError as error:
            # The file stays empty and no ok file appears, by which the client knows.
            _log.error("%s: the trace cannot be written: %s", self.path, error.strerror or error)
            _remove(self.path + ".lock")
        else:
            _log.info("%s: trace of %d bytes recorded", self.path, len(data))


def write_file(path: str, data: bytes, *, like: str = "") -> None:
    """Makes `data` the content of `path`: all of it, durably, or what was there stays.

    Mode and owner are those of the file `like`, if there is one and the system allows it. Raises `OSError`.
    """
    draft = f"{path}.{os.getpid()}.new"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "wb") as file:
            _imitate(fd, like)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(draft, path)
    except BaseException:
        _remove(draft)
        raise
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _imitate(fd: int, like: str) -> None:
    try:
        status = os.stat(like)
        os.fchmod(fd, status.st_mode & 0o777)
        os.fchown(fd, status.st_uid, status.st_gid)
    except OSError:
        pass  # readable by its owner, then


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("%s: cannot be removed: %s", path, error.strerror)
