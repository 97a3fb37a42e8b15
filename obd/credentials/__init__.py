"""Who we are to a registry: one source of credentials a file, all with the same three methods."""

from obd.credentials.credential import Credential, CredentialSource
from obd.credentials.document import match, repository
from obd.credentials.file import FileCredentials

__all__ = ["Credential", "CredentialSource", "FileCredentials", "match", "repository"]
