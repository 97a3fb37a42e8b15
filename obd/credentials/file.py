"""The credential mode `file`: a document on disk, read again whenever it changes."""

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

from obd.config.errors import ConfigError
from obd.config.strict_json import read_object
from obd.credentials.credential import Credential, CredentialSource
from obd.credentials.document import auths_of, match

log = logging.getLogger(__name__)


class FileCredentials(CredentialSource):
    """The document `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: object = None
        self._auths: Mapping[str, Any] = {}
        self._failure = ""

    def lookup(self, blob_url: str) -> Credential | None:
        """As `CredentialSource.lookup`; a file that cannot be read means anonymous, and a warning once."""
        return match(self._document(), blob_url)

    def describe(self) -> str:
        """As `CredentialSource.describe`."""
        return f"file {self._path}{f' (failed: {self._failure})' if self._failure else ''}"

    def forget(self, blob_url: str) -> None:
        """Reads the file again at the next lookup."""
        with self._lock:
            self._seen = None

    def _document(self) -> Mapping[str, Any]:
        try:
            stat = os.stat(self._path)
            seen: object = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError as error:
            seen = error.errno
        with self._lock:
            if seen != self._seen:
                self._seen = seen
                try:
                    self._auths, self._failure = auths_of(read_object(self._path)), ""
                except ConfigError as error:
                    self._auths, self._failure = {}, error.what
                    log.warning("credentials: %s; registries are asked anonymously", error)
            return self._auths
