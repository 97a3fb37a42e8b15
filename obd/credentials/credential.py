"""A credential, and what every source of credentials promises."""

import base64
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Credential:
    """A user and a password, or an identity token (then those may be empty). No secret is in a `repr`.

    An identity token is not shown to a registry: a token server takes it as the refresh token of OAuth 2.
    """

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)

    def basic(self) -> str:
        """The value of an `Authorization` header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class CredentialSource(Protocol):
    """Where credentials come from. Safe for any thread."""

    def lookup(self, blob_url: str) -> Credential | None:
        """The credential for a blob; None for anonymous access. Never raises for a source that fails.

        May be called before each request: what it remembers, it remembers for seconds.
        """

    def describe(self) -> str:
        """Which source this is, for messages, and how it failed if it did when last asked. No secrets."""
        raise NotImplementedError

    def forget(self, blob_url: str) -> None:
        """Drops what is remembered for a blob: to be called when a registry refused the credential."""
        return
