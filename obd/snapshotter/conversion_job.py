"""Turns unpacked layers into layers of ours: one process, of low priority, that ends with who started it.

Run as a module by `obd.snapshotter.conversion`, with the layers on standard input: a JSON list of pairs of a
directory and the file that is to be made of it, bottom first. What is there already is not made again.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import obdcore
from obd.convert.layer import apply_layer
from obd.convert.tree import archive
from obd.errors import ObdError, line_of
from obd.replace import sync_directory

_PR_SET_PDEATHSIG: Final = 1
# linux/ioprio.h: the class of those that get the disk when nobody else wants it.
_SYS_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
_IDLE: Final = 3 << 13
# Of the device. Nothing of it is stored that is not used.
_SIZE_BYTES: Final = 64 << 30
_COMPRESS: Final = {"algorithm": "lz4", "block_size": 4096, "checksum": True, "threads": 1}


def make(layers: list[tuple[str, str]]) -> None:
    """Makes the layer of each directory. Raises `OSError`; the layers before that are kept."""
    lowers: list[str] = []
    for directory, path in layers:
        if not os.path.exists(path):
            _make(directory, path, lowers)
        lowers.append(path)


def _make(directory: str, path: str, lowers: list[str]) -> None:
    raw, made = f"{path}.raw", f"{path}.new"
    for left in (raw, f"{raw}.index", made):  # of one that was killed
        with suppress(FileNotFoundError):
            os.unlink(left)
    try:
        with _Pipe(directory) as pipe:
            apply_layer(lowers, pipe.reader, raw, vsize_bytes=_SIZE_BYTES, fs="ext4", sha256="", told=_told)
        with open(made, "xb") as file:
            obdcore.lsmt_commit(raw, None, file.fileno(), compress=_COMPRESS)
            os.fsync(file.fileno())
        os.rename(made, path)
        sync_directory(path)
    finally:
        for left in (raw, f"{raw}.index", made):
            with suppress(FileNotFoundError):
                os.unlink(left)


def _told(done: int, total: int) -> None:
    """Nobody is told."""


class _Pipe:
    """A descriptor from which the archive of a directory can be read."""

    def __init__(self, directory: str) -> None:
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self._pieces: Final[Iterator[bytes]] = archive(directory, upper=True)
        self._failure: BaseException | None = None
        self._thread: Final = threading.Thread(target=self._write, daemon=True)

    def _write(self) -> None:
        try:
            with open(self._writer, "wb", buffering=1 << 20) as file:
                for piece in self._pieces:
                    file.write(piece)
        except BrokenPipeError:
            return  # who reads has said why
        except BaseException as error:
            self._failure = error

    def __enter__(self) -> _Pipe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reader)
        self._thread.join()
        if self._failure is not None:
            raise self._failure


def main() -> int:
    """The exit status; on standard error one line of what went wrong."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.nice(19)
    # Who started it is not to be killed for want of memory; this may be.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("500")
    with suppress(OSError):
        if number := _SYS_IOPRIO_SET.get(os.uname().machine):
            libc.syscall(number, 1, 0, _IDLE)
    try:
        make([(directory, path) for directory, path in json.load(sys.stdin)])
    except (ObdError, OSError) as error:
        sys.stderr.write(f"{line_of(error)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
