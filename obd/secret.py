"""Keeping secrets out of messages, logs and `repr`."""


def without_secrets(url: str) -> str:
    """`url` with what may be secret replaced by `…`: the user part of the authority, and the query."""
    head, mark, _query = url.partition("?")
    scheme, slashes, rest = head.partition("://")
    if slashes:
        authority, slash, path = rest.partition("/")
        _user, at, host = authority.rpartition("@")
        head = f"{scheme}://{'…@' if at else ''}{host if at else authority}{slash}{path}"
    return f"{head}?…" if mark else head
