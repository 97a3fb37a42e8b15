"""How people name an image of a registry: `[http[s]://]HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reference:
    """An image, or a repository if both `tag` and `digest` are ""."""

    url: str
    """Base URL of the repository, such as `https://registry.example/v2/team/app`."""
    tag: str
    digest: str


def parse_reference(word: str, *, plain_http: bool = False) -> Reference | None:
    """What `word` names; None if it names nothing.

    Without a scheme it is http for this machine itself and with `plain_http`, else https.
    """
    scheme, mark, rest = word.rpartition("://")
    rest, _, digest = rest.partition("@")
    host, _, name = rest.partition("/")
    directory, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    repository = directory + slash + last
    if (mark and scheme not in ("http", "https")) or not host or not repository or not last:
        return None
    if not mark:
        scheme = "http" if plain_http or _is_this_machine(host) else "https"
    return Reference(f"{scheme}://{host}/v2/{repository}", tag, digest)


def _is_this_machine(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name in ("localhost", "::1") or (name.startswith("127.") and name.count(".") == 3)
