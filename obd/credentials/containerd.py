"""The credential mode `containerd`: what containerd's own configuration says of a registry."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from obd.credentials.credential import Credential
from obd.credentials.document import host_of, match_longest
from obd.credentials.source import LookupFailed, Source

DEFAULT_FILE: Final = "/etc/containerd/config.toml"
MAX_BYTES: Final = 1 << 20
# CRI's settings of registries, by version of the file: of the first two, and of the third.
_CRI: Final = ("cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images")
# Directories with a `hosts.toml` for each registry, if no setting names others: those of the programs.
_DIRECTORIES: Final = "/etc/containerd/certs.d:/etc/docker/certs.d"


class ContainerdCredentials(Source):
    """The file `path`: `registry.configs` of CRI, then headers of the registry's own host in `hosts.toml`.

    Read whenever it is asked, which is when a registry wants to know who we are.
    """

    def __init__(self, path: str = "", *, optional: bool = False) -> None:
        """`optional`: a file that is not there is none that fails."""
        self._path: Final = path or DEFAULT_FILE
        super().__init__(f"containerd's configuration {self._path}")
        self._optional: Final = optional

    def ask(self, blob_url: str) -> Credential | None:
        """As `Source.ask`."""
        if not os.path.exists(self._path) and self._optional:
            return self._of_hosts(_DIRECTORIES, blob_url)
        root = _read(self._path)
        directories = ""
        for registry in _registries(root):
            configs = _table(registry, "configs")
            auths = {
                host: _table(found, "auth") for host, found in configs.items() if isinstance(found, dict)
            }
            if credential := match_longest(auths, blob_url):
                return credential
            told = registry.get("config_path")
            directories = told if isinstance(told, str) and told else directories
        return self._of_hosts(directories or _DIRECTORIES, blob_url)

    def _of_hosts(self, directories: str, blob_url: str) -> Credential | None:
        """What the first `hosts.toml` for a registry says of the registry itself, and not of its mirrors."""
        host = host_of(blob_url)
        name, _, port = host.partition(":")
        names = [*([f"{name}_{port}_", f"{name}:{port}"] if port else [name]), "_default"]
        for directory in directories.split(":"):
            for each in names:
                path = os.path.join(directory, each, "hosts.toml")
                if os.sep not in each and os.path.exists(path):
                    return self._of_header(_header(_read(path), host, default=each == "_default"), path)
        return None

    def _of_header(self, header: Mapping[str, Any], path: str) -> Credential | None:
        for name, value in header.items():
            if name.lower() != "authorization":
                continue
            first = value[0] if isinstance(value, list) and value else value
            scheme, _, rest = first.partition(" ") if isinstance(first, str) else ("", "", "")
            # The key is of no account: the header is for this host.
            if scheme.lower() == "basic" and (
                found := match_longest({"h": {"auth": rest.strip()}}, "https://h/v2/r/blobs/d")
            ):
                return found
            self.remark(f"{path}: only Basic with base64 of user:password is understood in authorization")
        return None


def _read(path: str) -> Mapping[str, Any]:
    """A TOML file. Raises `LookupFailed`, whose text quotes nothing of the file: that has secrets."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise LookupFailed(f"{path}: has more than {MAX_BYTES} bytes")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise LookupFailed(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise LookupFailed(f"{path}: is no TOML") from None


def _registries(root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What CRI has to say of registries."""
    plugins = _table(root, "plugins")
    for name in _CRI:
        if registry := _table(_table(plugins, name), "registry"):
            yield registry


def _header(root: Mapping[str, Any], host: str, *, default: bool) -> Mapping[str, Any]:
    """The headers for a registry itself; those of `_default` are for whom they name only."""
    for url, found in _table(root, "host").items():
        if _host(url) == host and isinstance(found, dict) and (header := _table(found, "header")):
            return header
    server = root.get("server")
    own = _host(server) == host if isinstance(server, str) else not default
    return _table(root, "header") if own else {}


def _host(url: str) -> str:
    try:
        return urlsplit(url if "://" in url else f"https://{url}").netloc
    except ValueError:
        return ""


def _table(of: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = of.get(key)
    return found if isinstance(found, dict) else {}
