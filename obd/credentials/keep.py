"""A credential that was given for one image: used, and kept in a file so that its devices have it too."""

from __future__ import annotations

import fcntl
import json
import os
from typing import Final

from obd.config.errors import ConfigError
from obd.config.strict_json import read_object
from obd.credentials.credential import Credential, CredentialSource
from obd.credentials.document import host_of
from obd.errors import ObdError
from obd.replace import replace_file

MAX_ENTRIES: Final = 10_000


class GivenCredentials(CredentialSource):
    """One credential, for one registry."""

    def __init__(self, host: str, credential: Credential) -> None:
        self._host: Final = host
        self._credential: Final = credential

    def lookup(self, blob_url: str) -> Credential | None:
        """As `CredentialSource.lookup`."""
        return self._credential if host_of(blob_url) == self._host else None

    def describe(self) -> str:
        """As `CredentialSource.describe`."""
        return f"the password that was given for {self._credential.username}"


def keep(path: str, key: str, credential: Credential) -> None:
    """Puts an entry for `key`, HOST/REPOSITORY, first into the file `path`, which is root's alone.

    The file is replaced as a whole. Raises `ObdError`, and `OSError` for a directory that cannot be written.
    """
    directory = os.path.dirname(os.path.abspath(path))
    os.makedirs(directory, mode=0o755, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        document = _read(path)
        entries = document.get("auths", {})
        if not isinstance(entries, dict) or len(entries) >= MAX_ENTRIES:
            raise ObdError("invalid", f"auths: must be an object of fewer than {MAX_ENTRIES} entries", path)
        own = {"username": credential.username, "password": credential.password}
        # The first that fits counts, and another one may be for the whole registry.
        document["auths"] = {key: own, **{each: value for each, value in entries.items() if each != key}}
        replace_file(path, json.dumps(document, indent=2).encode() + b"\n", 0o600)
    finally:
        os.close(lock)


def _read(path: str) -> dict[str, object]:
    if not os.path.exists(path):
        return {}
    try:
        return dict(read_object(path))
    except ConfigError as error:
        raise ObdError("invalid", error.what, path) from None
