"""A certificate authority of the tests' own, and what it signs."""

import ssl
import subprocess
import threading
from pathlib import Path

# What the servers of tests are called.
NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"


class Authority:
    """An authority that nobody knows; its files, and those of what it signs, are in `directory`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._lock = threading.Lock()
        self.file = directory / "ca.pem"
        _openssl(self.file, "-subj", "/CN=authority of the tests")

    def sign(self, name: str, *, extension: str = NAMES) -> tuple[Path, Path]:
        """The files of a certificate and of its key, made once."""
        cert = self._directory / f"{name}.pem"
        with self._lock:
            if not cert.exists():
                leaf = ["-addext", "basicConstraints=CA:FALSE", "-addext", extension]
                signed = ["-CA", str(self.file), "-CAkey", str(_key(self.file))]
                _openssl(cert, "-subj", f"/CN={name}", *leaf, *signed)
        return cert, _key(cert)

    def context(self) -> ssl.SSLContext:
        """What a server of Python's speaks TLS with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.sign("server"))
        return context


def _key(cert: Path) -> Path:
    return cert.with_suffix(".key")


def _openssl(cert: Path, *options: str) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-out", str(cert)]
    subprocess.run([*command, "-keyout", str(_key(cert)), *options], check=True, capture_output=True)
