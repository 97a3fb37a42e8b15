"""JSON of foreigners: read with all of its bounds, its values taken with their types checked."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn

from obd.errors import ObdError
from obd.oci.digest import is_digest
from obd.oci.limits import MAX_BLOB_BYTES, MAX_DEPTH, MAX_MANIFEST_BYTES, MAX_TEXT_CHARACTERS

_SHOWN: Final = 80


def corrupt(what: str) -> NoReturn:
    """Raises the error of a document that is not what it should be."""
    raise ObdError("corrupt", what)


@contextlib.contextmanager
def at(where: str) -> Iterator[None]:
    """Says in errors about a document where it comes from."""
    try:
        yield
    except ObdError as error:
        raise ObdError(error.kind, error.what, error.file or where) from None


def parse(data: bytes, what: str) -> dict[str, Any]:
    """The object that the JSON `data` is. `what` names it in messages: "manifest".

    Raises `ObdError`: "limit" for one that is too long, "corrupt" for all else: no JSON, no object,
    nested too deeply, with a key twice (readers differ in which counts), with numbers that JSON has not.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ObdError("limit", f"a {what} of {len(data)} bytes, more than {MAX_MANIFEST_BYTES}")
    try:
        found = json.loads(data, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_number)
    except (ValueError, RecursionError) as error:
        # Not the text of the document: it may be anything.
        why = str(error) if isinstance(error, _Refused) else "not JSON"
        raise ObdError("corrupt", f"not a {what}: {why}") from None
    if not isinstance(found, dict):
        corrupt(f"not a {what}: JSON, but no object")
    _check_depth(found, what)
    return found


def encode(document: Mapping[str, Any]) -> bytes:
    """The one form of a document that we write: compact, ASCII, keys in the order given."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")


class _Refused(ValueError):
    pass


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Refused(f"the key {shown(key)} twice")
        found[key] = value
    return found


def _no_number(name: str) -> NoReturn:
    raise _Refused(f"{name} is no number")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused("a number beyond all bounds")
    return value


def _check_depth(document: dict[str, Any], what: str) -> None:
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        if not below:
            return
        level = below
    corrupt(f"not a {what}: nested more than {MAX_DEPTH} deep")


def shown(value: object) -> str:
    """A value for a message: one line, not long."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def text(document: Mapping[str, Any], key: str, where: str) -> str:
    """The text under `key`, "" if there is none."""
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS:
        corrupt(f"{where}.{key} is no text: {shown(value)}")
    return value


def size(document: Mapping[str, Any], where: str) -> int:
    """The number of bytes under `size`, which must be there."""
    value = document.get("size")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_BLOB_BYTES:
        corrupt(f"{where}.size is no number of bytes: {shown(value)}")
    return value


def digest(document: Mapping[str, Any], where: str) -> str:
    """The digest under `digest`, which must be there and of an algorithm that is understood."""
    value = document.get("digest")
    if not isinstance(value, str) or not is_digest(value):
        corrupt(f"{where}.digest is no digest: {shown(value)}")
    return value


def texts(document: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    """The object of texts under `key`, such as annotations; empty if there is none."""
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        corrupt(f"{where}.{key} is no object of texts: {shown(value)}")
    return value


def items(document: Mapping[str, Any], key: str, where: str, most: int) -> list[Any]:
    """The list under `key`, which must be there and have no more than `most` values."""
    value = document.get(key)
    if not isinstance(value, list):
        corrupt(f"{where} has no list of {key}")
    if len(value) > most:
        raise ObdError("limit", f"{where} has {len(value)} {key}, more than {most}")
    return value


def object_of(value: object, where: str) -> dict[str, Any]:
    """`value` if it is an object."""
    if not isinstance(value, dict):
        corrupt(f"{where} is no object: {shown(value)}")
    return value


def rest(document: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """What of a document nobody here knows, to be kept when it is written again."""
    return {key: document[key] for key in sorted(document.keys() - set(known))}
