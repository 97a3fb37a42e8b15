"""The credential document `{"auths": {key: entry}}`: which of its entries is for a blob."""

import base64
import binascii
import logging
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from obd.credentials.credential import Credential

log = logging.getLogger(__name__)

_DEFAULT_PORTS: Final = {"https": ":443", "http": ":80"}
# What Docker calls its registry, in keys of its own configuration file, and the host that serves blobs.
_DOCKER_HUB: Final = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}


def auths_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entries of a credential document; no entries if there is no object `auths`."""
    auths = document.get("auths")
    return auths if isinstance(auths, dict) else {}


def match(auths: Mapping[str, Any], blob_url: str) -> Credential | None:
    """The credential of the entry for `blob_url` (`<scheme>://<host>/v2/<repository>/blobs/<digest>`).

    First upstream's rule: in document order, the first usable entry whose key equals the host or the host
    and leading components of the repository. Then keys as Docker writes them (scheme, trailing slash,
    `/v1/`, default port, `docker.io`): the longest that fits. An empty user name is anonymous.
    """
    scheme, host, path = _split(blob_url)
    names = [host, *("/".join((host, *path[: n + 1])) for n in range(len(path)))]
    for key, entry in auths.items():
        if key in names and (credential := _usable(key, entry)):
            return credential if credential.username else None
    plain = {_normal(name, scheme): depth for depth, name in enumerate(names)}
    fitting = [(plain[n], key) for key in auths if (n := _normal(key, scheme)) in plain]
    for _, key in sorted(fitting, key=lambda pair: -pair[0]):
        if credential := _usable(key, auths[key]):
            return credential if credential.username else None
    return None


def repository(blob_url: str) -> str:
    """The repository name in a blob URL: `team/app` of `https://h/v2/team/app/blobs/sha256:…`."""
    return "/".join(_split(blob_url)[2])


def _split(blob_url: str) -> tuple[str, str, list[str]]:
    """Scheme, host with port, and components of the repository name."""
    url = urlsplit(blob_url.lstrip("/"))
    parts = [part for part in url.path.split("/") if part]
    if parts and parts[0] == "v2":
        del parts[0]
    if parts[-2:-1] == ["manifests"]:
        del parts[-2:]
    elif "blobs" in parts:
        # The last one: a repository may have a component of that name.
        del parts[len(parts) - 1 - parts[::-1].index("blobs") :]
    return url.scheme, url.netloc.rpartition("@")[2], parts


def _normal(key: str, scheme: str) -> str:
    """A key or name without scheme, trailing slash, API version and default port."""
    _, found, rest = key.partition("://")
    host, *path = (rest if found else key).rstrip("/").split("/")
    if path and path[-1] in ("v1", "v2"):
        path.pop()
    host = host.lower().removesuffix(_DEFAULT_PORTS.get(scheme, " "))
    return "/".join((_DOCKER_HUB.get(host, host), *path))


def _usable(key: str, entry: object) -> Credential | None:
    """The content of an entry; None (and a line in the log) if there is nothing usable."""
    if isinstance(entry, dict):
        auth, username, password = (entry.get(name) for name in ("auth", "username", "password"))
        if isinstance(auth, str) and auth:
            try:
                user, colon, secret = base64.b64decode(auth, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                colon = ""
            if colon:
                return Credential(user, secret)
            log.error("credentials: entry %r: auth is not base64 of user:password", key)
            return None
        if isinstance(username, str):
            return Credential(username, password if isinstance(password, str) else "")
    return None
