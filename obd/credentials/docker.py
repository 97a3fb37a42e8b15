"""The credential mode `docker`: the configuration file of Docker's client, with its helpers."""

import os

from obd.credentials.credential import Credential
from obd.credentials.document import auths_of, match_longest
from obd.credentials.file import FileCredentials
from obd.credentials.helper import names_of
from obd.credentials.source import LookupFailed


def default_path() -> str:
    """Where Docker's client keeps its configuration: `$DOCKER_CONFIG`, or `.docker` of our user."""
    directory = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    return os.path.join(directory, "config.json")


class DockerCredentials(FileCredentials):
    """The file `path`, "" for `default_path`: helpers first, then the longest key of `auths` that fits."""

    def __init__(self, path: str = "") -> None:
        # Who has never logged in anywhere has no such file.
        super().__init__(path or default_path(), optional=not path)

    def ask(self, blob_url: str) -> Credential | None:
        """As `Source.ask`. What a helper lacks, or fails to give, may yet stand in the file."""
        if self.absent():
            return None
        document = self._document()
        entry = match_longest(auths_of(document), blob_url)
        try:
            return self._helpers.lookup(document, blob_url) or entry
        except LookupFailed as failure:
            if entry is None:
                raise
            self.remark(f"{failure}; the entry of the file is used")
            return entry

    def describe(self) -> str:
        """As `CredentialSource.describe`; names the helpers."""
        try:
            helpers = names_of(self._file.read()[0])
        except LookupFailed:
            helpers = []
        said = super().describe()
        return f"{said} with {', '.join(helpers)}" if helpers else said
