"""The result file: how the outcome of opening a device reaches whoever asked for it."""

import contextlib
import logging
import os
import stat
from typing import Final

from obd.logs import printable

_log: Final = logging.getLogger("overlaybd.result")

# A result is read by people and put into messages whole.
MAX_MESSAGE_CHARACTERS: Final = 4000


class ResultFile:
    """Writes `success` or `failed:<message>` to `path`, whole or not at all; with an empty path nothing.

    Creating one clears what an earlier attempt left. That the file cannot be written is logged and changes
    nothing else: the device matters more than the report.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._write("")

    def success(self) -> None:
        """The device is open."""
        self._write("success")

    def failed(self, message: str) -> None:
        """The device did not open; `message` begins with a text that callers look for."""
        self._write("failed:" + printable(" ".join(message.split("\n")))[:MAX_MESSAGE_CHARACTERS])

    def _write(self, content: str) -> None:
        if not self._path:
            return
        try:
            _replace(os.path.realpath(self._path), content)
        except (OSError, ValueError) as error:
            _log.error("cannot write the result file %s: %s", self._path, error)


def _replace(path: str, content: str) -> None:
    """Puts `content` under the name `path` in one step. What is no regular file (/dev/null) is written to."""
    data = content.encode("utf-8", "surrogateescape")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "wb", buffering=0) as special:
                special.write(data)
            return
    except FileNotFoundError:
        pass
    # Of one name, so that nothing is left of processes that were killed but what the next one takes away.
    temporary = os.path.join(os.path.dirname(path), f".result-{os.path.basename(path)}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
