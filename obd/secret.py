"""Keeping secrets out of messages, logs and `repr`."""

import re
from typing import Final

# Host and port of a URL.
_PLACE: Final = re.compile(r"(\[[^]]*\]|[^:]*)(:[0-9]*)?")


def without_secrets(url: str) -> str:
    """`url` with what may be secret replaced by `…`: the user part of the authority, and the query."""
    head, mark, _query = url.partition("?")
    scheme, slashes, rest = head.partition("://")
    if slashes:
        authority, slash, path = rest.partition("/")
        _user, at, host = authority.rpartition("@")
        if not at and "@" in url and not _PLACE.fullmatch(authority):
            # The port is part of a password with a `/` or `?` in it: where that ends nobody can tell.
            return f"{scheme}://…"
        head = f"{scheme}://{'…@' if at else ''}{host if at else authority}{slash}{path}"
    return f"{head}?…" if mark else head
