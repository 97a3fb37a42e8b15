"""TLS towards one host, or all: what both HTTP clients, the core's and Python's, are told."""

from typing import Final, NamedTuple


class Tls(NamedTuple):
    """Files are PEM, "" for none; a client certificate (with its chain) counts if its key is given too.

    `ca_file` is trusted besides what the system trusts, `insecure` trusts anybody.
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    insecure: bool = False


# The system's certificates, and none of our own.
USUAL: Final = Tls()
