"""Scenarios of TLS: certificates and handshakes."""

import contextlib
import socket
from collections.abc import Mapping
from typing import Any

from tests.e2e.faults.connections import greet
from tests.e2e.faults.scenario import RIGHT, Right, Scenario, Section, fails
from tests.e2e.faults.site import Site

SECURE: Mapping[str, Any] = {"secure": True}


def trusted(site: Site) -> Mapping[str, Any]:
    """The authority that signed the server's certificate is configured."""
    return {"registries": {site.host: {"caFile": str(site.authority.file)}}}


def insecure(site: Site) -> Mapping[str, Any]:
    """Any certificate is taken."""
    return {"registries": {site.host: {"insecure": True}}}


def no_tls(connection: socket.socket) -> bool:
    """Plain HTTP where TLS is spoken."""
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    connection.close()
    return False


def silent(connection: socket.socket) -> bool:
    """No answer to the client's greeting."""
    with contextlib.suppress(OSError):
        while connection.recv(4096):
            pass
    return False


TLS = Section(
    "TLS",
    "The registry is behind TLS.",
    (
        Scenario(
            "a certificate of an authority that is configured",
            site=SECURE,
            prepare=trusted,
            once=None,
            lasting=RIGHT,
        ),
        Scenario(
            "a certificate of an unknown authority",
            site=SECURE,
            once=None,
            lasting=fails(
                "denied", "GET {url}", "certificate", note="`caFile` of the registry names the authority"
            ),
            when=("open",),
            heals=False,
        ),
        Scenario(
            "a certificate of an unknown authority, and `insecure`",
            site=SECURE,
            prepare=insecure,
            once=None,
            lasting=Right("the log warns at each start"),
            logs="{host}",
        ),
        Scenario(
            "a redirect to an object store without TLS",
            site={"secure": True, "auth": "basic", "redirects": True},
            prepare=trusted,
            once=None,
            lasting=Right("credentials are not sent there"),
        ),
        Scenario(
            "no TLS", breaks=greet(no_tls), site=SECURE, prepare=trusted, lasting=fails("io", "GET {url}")
        ),
        Scenario(
            "a handshake that does not end",
            breaks=greet(silent, 1),
            site=SECURE,
            prepare=trusted,
            once=Right("after the time limit"),
            lasting=fails("timed-out", "GET {url}"),
        ),
    ),
)
