"""The credential document `{"auths": {key: entry}}`: which of its entries is for a blob."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from obd.credentials.credential import Credential
from obd.secret import without_secrets

_DEFAULT_PORTS: Final = {"https": ":443", "http": ":80"}
# What Docker calls its registry, in keys of its own configuration file, and the host that serves blobs.
_DOCKER_HUB: Final = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
# The user name that stands for an identity token in place of a password.
TOKEN_USER: Final = "<token>"


def auths_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entries of a credential document; no entries if there is no object `auths`."""
    auths = document.get("auths")
    return auths if isinstance(auths, dict) else {}


def match(auths: Mapping[str, Any], blob_url: str) -> Credential | None:
    """The credential of the entry for `blob_url` (`<scheme>://<host>/v2/<repository>/blobs/<digest>`).

    First upstream's rule: in document order, the first usable entry whose key equals the host or the host
    and leading components of the repository. Then Docker's, `match_longest`. An empty user is anonymous.
    """
    names = _names(*_split(blob_url)[1:])
    for key, entry in auths.items():
        if key in names and (credential := _usable(entry)):
            return known(credential)
    return match_longest(auths, blob_url)


def match_longest(auths: Mapping[str, Any], blob_url: str) -> Credential | None:
    """The credential of the usable entry whose key, as Docker writes keys, is the longest that fits."""
    for key in keys_by_length(auths, blob_url):
        if credential := _usable(auths[key]):
            return known(credential)
    return None


def keys_by_length(keys: Iterable[str], blob_url: str) -> list[str]:
    """Those of `keys` that are for `blob_url`, the longest first.

    A key is the host, or the host and leading components of the repository; a scheme, a trailing slash,
    `/v1/`, the default port and `docker.io` are understood.
    """
    scheme, host, path = _split(blob_url)
    plain = {_normal(name, scheme): depth for depth, name in enumerate(_names(host, path))}
    fitting = [(plain[normal], key) for key in keys if (normal := _normal(key, scheme)) in plain]
    return [key for _, key in sorted(fitting, key=lambda pair: -pair[0])]


def known(credential: Credential) -> Credential | None:
    """`credential`, or None if it says nothing but "anonymous"."""
    return credential if credential.username or credential.identity_token else None


def credential_of(username: str, password: str, identity_token: str = "") -> Credential:
    """A credential from a user and a password, of which Docker's `<token>` makes an identity token."""
    if username == TOKEN_USER:
        return Credential("", "", identity_token or password)
    return Credential(username, password, identity_token)


def unusable(auths: Mapping[str, Any]) -> Iterator[str]:
    """A line for each entry whose `auth` cannot be read. Without secrets."""
    for key, entry in auths.items():
        if isinstance(entry, dict) and entry.get("auth") and not _usable(entry):
            yield f"entry {without_secrets(key)!r}: auth is not base64 of user:password"


def repository(blob_url: str) -> str:
    """The repository name in a blob URL: `team/app` of `https://h/v2/team/app/blobs/sha256:…`."""
    return "/".join(_split(blob_url)[2])


def host_of(blob_url: str) -> str:
    """The host in a blob URL, with the port if there is one."""
    return _split(blob_url)[1]


def place_of(blob_url: str) -> str:
    """Scheme, host and repository of a blob URL: what a credential can be for."""
    scheme, host, path = _split(blob_url)
    return f"{scheme}://{'/'.join((host, *path))}"


def _split(blob_url: str) -> tuple[str, str, list[str]]:
    """Scheme, host with port, and components of the repository name; nothing of what is no URL."""
    try:
        url = urlsplit(blob_url.lstrip("/"))
    except ValueError:
        return "", "", []
    parts = [part for part in url.path.split("/") if part]
    if parts and parts[0] == "v2":
        del parts[0]
    if parts[-2:-1] in (["manifests"], ["referrers"]):
        del parts[-2:]
    elif "blobs" in parts:
        # The last one: a repository may have a component of that name.
        del parts[len(parts) - 1 - parts[::-1].index("blobs") :]
    return url.scheme, url.netloc.rpartition("@")[2], parts


def _names(host: str, path: list[str]) -> list[str]:
    """The host, and the host with leading components: what a key may be."""
    if not host:
        return []
    return [host, *("/".join((host, *path[: n + 1])) for n in range(len(path)))]


def _normal(key: str, scheme: str) -> str:
    """A key or name without scheme, trailing slash, API version and default port."""
    _, found, rest = key.partition("://")
    host, *path = (rest if found else key).rstrip("/").split("/")
    if path and path[-1] in ("v1", "v2"):
        path.pop()
    host = host.lower().removesuffix(_DEFAULT_PORTS.get(scheme, " "))
    return "/".join((_DOCKER_HUB.get(host, host), *path))


def _usable(entry: object) -> Credential | None:
    """The content of an entry; None if there is nothing usable."""
    if not isinstance(entry, dict):
        return None
    names = ("auth", "username", "password", "identitytoken")
    auth, username, password, token = (
        value if isinstance(value := entry.get(name), str) else None for name in names
    )
    if auth:
        try:
            username, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except ValueError:  # no base 64, no ASCII even, or no UTF-8 in it
            return None
        if not colon:
            return None
    if username is None and not token:
        return None
    return credential_of(username or "", password or "", token or "")
