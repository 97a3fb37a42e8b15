"""Who we are to a registry: one source of credentials a file, all with the same three methods."""

from obd.credentials.choose import source_of
from obd.credentials.credential import Credential, CredentialSource
from obd.credentials.document import match, repository
from obd.credentials.file import FileCredentials
from obd.credentials.protect import no_core_dumps

__all__ = [
    "Credential",
    "CredentialSource",
    "FileCredentials",
    "match",
    "no_core_dumps",
    "repository",
    "source_of",
]
