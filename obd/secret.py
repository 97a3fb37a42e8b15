"""Keeping secrets out of messages, logs and `repr`."""

import re
from typing import Final

# The end of a user part, and not the begin of a digest.
_AT: Final = re.compile(r"@(?!sha(256|512):)")


def without_secrets(url: str) -> str:
    """`url` with what may be secret replaced by `…`: the user part of the authority, and the query."""
    head, mark, query = url.partition("?")
    scheme, slashes, rest = head.partition("://")
    if slashes:
        authority, slash, path = rest.partition("/")
        _user, at, host = authority.rpartition("@")
        if not at and ":" in authority and _AT.search(rest + query):
            # The port may be part of a password with a `/` or `?` in it: where that ends nobody can tell.
            return f"{scheme}://…"
        head = f"{scheme}://{'…@' if at else ''}{host if at else authority}{slash}{path}"
    return f"{head}?…" if mark else head
