"""A JSON file that holds credentials or names helpers: read again whenever it changes."""

import os
import threading
from collections.abc import Mapping
from typing import Any

from obd.config.errors import ConfigError
from obd.config.strict_json import read_object
from obd.credentials.source import LookupFailed


class WatchedFile:
    """The root object of the JSON file `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen: object = None
        self._content: Mapping[str, Any] | LookupFailed = {}

    def read(self) -> tuple[Mapping[str, Any], bool]:
        """The object, and whether it is another one than last time. Raises `LookupFailed`, repeatedly."""
        seen = stamp(self.path)
        with self._lock:
            new = seen != self._seen
            if new:
                self._seen = seen
                try:
                    self._content = read_object(self.path)
                except ConfigError as error:
                    self._content = LookupFailed(error.what)
            if isinstance(self._content, LookupFailed):
                raise LookupFailed(*self._content.args)
            return self._content, new

    def forget(self) -> None:
        """Reads the file anew next time, even if it looks the same."""
        with self._lock:
            self._seen = None


def stamp(path: str) -> object:
    """What differs when a file was changed or replaced."""
    try:
        stat = os.stat(path)
    except OSError as error:
        return error.errno
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
