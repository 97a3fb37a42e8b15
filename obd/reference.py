"""How people name an image of a registry: `[docker://|http[s]://]HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# Docker Hub as people know it, and where its registry is.
_HUBS: Final = ("docker.io", "index.docker.io", "registry-1.docker.io")
_HUB: Final = "registry-1.docker.io"

_PART: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_REPOSITORY: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Reference:
    """An image, or a repository if both `tag` and `digest` are ""."""

    url: str
    """Base URL of the repository, such as `https://registry.example/v2/team/app`."""
    tag: str
    digest: str


def parse_reference(word: str, *, plain_http: bool = False) -> Reference | None:
    """What `word` names; None if it names nothing.

    Without a scheme it is http for this machine itself and with `plain_http`, else https. After `docker://`
    the host may be left out, as Docker has it: `docker://debian` is Docker Hub's `library/debian`.
    """
    from obd.oci.digest import is_digest

    scheme, mark, rest = word.rpartition("://")
    rest, at, digest = rest.partition("@")
    host, slash, name = rest.partition("/")
    if scheme == "docker" and not (slash and _is_host(host)):
        host, name = _HUBS[0], rest
    directory, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    repository = directory + slash + last
    if mark and scheme not in ("http", "https", "docker"):
        return None
    if not _HOST.fullmatch(host) or not _REPOSITORY.fullmatch(repository):
        return None
    if (colon and not _TAG.fullmatch(tag)) or (at and not is_digest(digest)):
        return None
    if host in _HUBS:
        host = _HUB
        repository = repository if "/" in repository else f"library/{repository}"
    if scheme not in ("http", "https"):
        scheme = "http" if plain_http or _is_this_machine(host) else "https"
    return Reference(f"{scheme}://{host}/v2/{repository}", tag, digest)


def _is_host(word: str) -> bool:
    """Whether Docker takes the first part of a name for a host."""
    return "." in word or ":" in word or word == "localhost"


def _is_this_machine(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name in ("localhost", "::1") or (name.startswith("127.") and name.count(".") == 3)
