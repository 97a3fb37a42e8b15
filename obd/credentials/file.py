"""The credential mode `file`: a document on disk, with Docker's helpers if it names some."""

import os
from collections.abc import Mapping
from typing import Any

from obd.credentials.credential import Credential
from obd.credentials.document import auths_of, match, unusable
from obd.credentials.helper import Helpers
from obd.credentials.source import LookupFailed, Source
from obd.credentials.watched import WatchedFile


class FileCredentials(Source):
    """The document `path`: the first entry that fits, as upstream has it, and then Docker's ways."""

    def __init__(self, path: str, *, optional: bool = False) -> None:
        """`optional`: a file that is not there is none that fails."""
        super().__init__(f"file {path}")
        self._optional = optional
        self._file = WatchedFile(path)
        self._helpers = Helpers()

    def ask(self, blob_url: str) -> Credential | None:
        """As `Source.ask`. The file's own entries count before what it says of helpers."""
        if self.absent():
            return None
        document = self._document()
        return match(auths_of(document), blob_url) or self._helpers.lookup(document, blob_url)

    def forget(self, blob_url: str) -> None:
        """As `CredentialSource.forget`."""
        self._file.forget()
        try:
            self._helpers.forget(self._file.read()[0], blob_url)
        except LookupFailed:
            return

    def describe(self) -> str:
        """As `CredentialSource.describe`."""
        return f"{self.name} (not there)" if self.absent() else super().describe()

    def absent(self) -> bool:
        """Whether there is no file, and that is all right."""
        return self._optional and not os.path.exists(self._file.path)

    def _document(self) -> Mapping[str, Any]:
        document, new = self._file.read()
        if new:
            for line in unusable(auths_of(document)):
                self.remark(line)
        return document
