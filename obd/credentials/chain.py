"""Several sources of credentials, asked in turn: the mode `node` has all that a node has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from obd.credentials.credential import Credential, CredentialSource


class ChainCredentials(CredentialSource):
    """The first of `sources` that has a credential gives it."""

    def __init__(self, sources: Sequence[CredentialSource]) -> None:
        self._sources: Final = tuple(sources)

    def lookup(self, blob_url: str) -> Credential | None:
        """As `CredentialSource.lookup`."""
        return next(filter(None, (source.lookup(blob_url) for source in self._sources)), None)

    def describe(self) -> str:
        """As `CredentialSource.describe`."""
        return ", ".join(source.describe() for source in self._sources)

    def forget(self, blob_url: str) -> None:
        """As `CredentialSource.forget`."""
        for source in self._sources:
            source.forget(blob_url)
