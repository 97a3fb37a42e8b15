"""Which images a pattern of the kubelet is for: globs in the host, an equal port, a path that begins so."""

import fnmatch
from collections.abc import Iterable
from typing import Final

from obd.credentials.document import host_of, repository

# What the kubelet calls the images of the registry that serves Docker Hub's blobs.
_HUB_HOST: Final = "registry-1.docker.io"
_HUB_NAME: Final = "docker.io"


def image_of(blob_url: str) -> str:
    """The image of a blob as the kubelet names it: host, port and repository, without tag."""
    host = host_of(blob_url)
    return f"{_HUB_NAME if host == _HUB_HOST else host}/{repository(blob_url)}"


def matches(pattern: str, image: str) -> bool:
    """Whether `pattern` is for `image`.

    Both have as many parts of the host name, each fits (`*`, `?` and `[…]` stand for something within one
    part), the ports are equal or both absent, and the pattern's path is how that of the image begins.
    """
    hosts, port, path = _split(pattern)
    image_hosts, image_port, image_path = _split(image)
    return (
        port == image_port
        and len(hosts) == len(image_hosts)
        and image_path.startswith(path)
        and all(fnmatch.fnmatchcase(*pair) for pair in zip(image_hosts, hosts, strict=True))
    )


def most_special(patterns: Iterable[str], image: str) -> list[str]:
    """Those of `patterns` that are for `image`, in the kubelet's order: the last in the alphabet first."""
    return sorted((pattern for pattern in patterns if matches(pattern, image)), reverse=True)


def _split(pattern: str) -> tuple[list[str], str, str]:
    """Parts of the host name, port, and path; a scheme, a slash at the end and `/v1`, `/v2` do not count."""
    _, found, rest = pattern.partition("://")
    host, slash, path = (rest if found else pattern).partition("/")
    path = slash + path
    for version in ("/v1/", "/v2/"):
        if found and path.startswith(version):
            path = path[len(version) - 1 :]
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdigit():
        name, port = host, ""
    return name.lower().split("."), port, path.rstrip("/")
