"""A layer on its way from the source: a file that grows, and can be read while it does."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from obd.convert.crew import Cancelled
from obd.errors import ObdError, about
from obd.oci.temporary import write_all

if TYPE_CHECKING:
    from obd.oci.descriptor import Descriptor
    from obd.oci.protocols import ImageSource

_PIECE_BYTES: Final = 1 << 20
# Of a pipe to the core: fewer turns of both ends.
_PIPE_BYTES: Final = 1 << 20
_LOOK_S: Final = 0.2

Told = Callable[[int, int], object]


class Fetch:
    """One layer: `run` brings it, in a thread of its own; `open` gives a descriptor to read it from, at once.

    path: where to keep it until `close`, unless the source has it as a file. `check` raises to end the work.
    """

    def __init__(
        self, source: ImageSource, layer: Descriptor, path: str, check: Callable[[], object]
    ) -> None:
        self._source = source
        self._layer = layer
        self._path = path
        self._check = check
        self._changed = threading.Condition()
        self._arrived = 0
        self._ended = False
        self._error: BaseException | None = None
        # What kept `_follow` from going on.
        self._lost: OSError | None = None
        self._local = source.path(layer)
        self._pump: threading.Thread | None = None

    def run(self, told: Told) -> None:
        """Fetches and verifies the layer. Raises `OSError`, and what `check` raises."""
        try:
            if self._local is not None:
                self._verify(self._local, told)
            else:
                self._copy(told)
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)

    def _copy(self, told: Told) -> None:
        with self._source.blob(self._layer) as stream, open(self._path, "wb", buffering=0) as file:
            # Raises in place of an end that is wrong.
            while data := stream.read(_PIECE_BYTES):
                self._check()
                write_all(file.fileno(), data, self._arrived)
                self._advance(len(data))
                told(self._arrived, self._layer.size)

    def _verify(self, path: str, told: Told) -> None:
        algorithm, _, digits = self._layer.digest.partition(":")
        found = hashlib.new(algorithm, usedforsecurity=False)
        buffer = memoryview(bytearray(_PIECE_BYTES))
        size = 0
        with os.fdopen(_open_file(path), "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                self._check()
                found.update(buffer[:count])
                size += count
                told(min(size, self._layer.size), self._layer.size)
        if found.hexdigest() != digits or size != self._layer.size:
            what = f"the bytes are {algorithm}:{found.hexdigest()}, not {self._layer.digest}"
            raise ObdError("corrupt", what, path)

    def _advance(self, count: int) -> None:
        with self._changed:
            self._arrived += count
            self._changed.notify_all()

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def open(self) -> int:
        """A descriptor of the layer's bytes, the caller's to close. What is not there yet will come."""
        if self._local is not None:
            return _open_file(self._local)
        with self._changed:
            if self._ended:
                self._raise()
                return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        reader, writer = make_pipe()
        self._pump = threading.Thread(target=self._follow, args=(writer,), daemon=True)
        self._pump.start()
        return reader

    def _follow(self, writer: int) -> None:
        """Moves what has arrived into a pipe, until all has or nobody reads any more."""
        sent = 0
        try:
            while (arrived := self._more_than(sent)) > sent:
                with about(self._path), open(self._path, "rb", buffering=0) as file:
                    while sent < arrived:
                        count = os.sendfile(writer, file.fileno(), sent, arrived - sent)
                        if not count:
                            return  # somebody has cut the file, which the reader takes for its end
                        sent += count
        except (BrokenPipeError, Cancelled):
            pass  # the reader has failed, and says why itself, or nobody wants it any more
        except OSError as error:
            # The reader takes it for the end; `failure` says what it was.
            with self._changed:
                self._lost = error
        finally:
            os.close(writer)

    def _more_than(self, sent: int) -> int:
        """How much has arrived, once that is more than `sent` or there is no more."""
        with self._changed:
            while self._arrived <= sent and not self._ended:
                self._changed.wait(_LOOK_S)
                self._check()
            return sent if self._error else self._arrived

    @property
    def path(self) -> str:
        """The file that it is in when all has arrived."""
        return self._local if self._local is not None else self._path

    def failure(self) -> BaseException | None:
        """Why it has failed so far, if it has."""
        with self._changed:
            return self._error or self._lost

    def wait(self) -> None:
        """Returns when all has arrived and is right; raises what was wrong."""
        with self._changed:
            while not self._ended:
                self._changed.wait(_LOOK_S)
                self._check()
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Gives up the file. The descriptors that `open` gave must be closed before."""
        if self._pump is not None:
            self._pump.join()
        if self._local is None and os.path.exists(self._path):
            os.unlink(self._path)


def _open_file(path: str) -> int:
    """A descriptor of a file of the source, which must be one: a pipe would keep us waiting."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ObdError("corrupt", "not a regular file", path)
    return fd


def make_pipe() -> tuple[int, int]:
    """The two ends of a pipe that holds as much as it may: to read from, to write to."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    # A user who has too many large ones gets a small one, which does as well.
    with contextlib.suppress(OSError):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return reader, writer
