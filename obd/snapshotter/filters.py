"""Containerd's filter expressions: which snapshots a list is to have.

An expression is selectors joined by commas, all of which must hold; of several expressions one must hold. A
selector is a path of fields (`labels."a.b"`), which then must be there, or a path, one of `==`, `!=`, `~=`,
and a value, bare or quoted as in Go. Source: the documentation of containerd's package `filters`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Final

from obd.snapshotter.errors import INVALID_ARGUMENT, SnapshotError

# What an expression may be long; containerd's own have some hundred characters.
MAX_CHARACTERS: Final = 16 << 10

Lookup = Callable[[tuple[str, ...]], str | None]
"""The value of a path of fields, None if there is none."""

_FIELD: Final = r'[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"'
_SELECTOR: Final = re.compile(
    rf"\s*(?P<path>(?:{_FIELD})(?:\.(?:{_FIELD}))*)\s*"
    r'(?:(?P<operator>==|!=|~=)\s*(?P<value>"(?:[^"\\]|\\.)*"|[^\s,"]*)\s*)?'
)
_PART: Final = re.compile(_FIELD)


def compile_filters(expressions: Sequence[str]) -> Callable[[Lookup], bool]:
    """A test for what the expressions describe; none describe all. Raises `SnapshotError`."""
    every = [_compile(expression) for expression in expressions]
    return lambda lookup: not every or any(all(test(lookup) for test in tests) for tests in every)


def _compile(expression: str) -> list[Callable[[Lookup], bool]]:
    if len(expression) > MAX_CHARACTERS:
        raise SnapshotError(INVALID_ARGUMENT, f"filter of {len(expression)} characters: too long")
    tests: list[Callable[[Lookup], bool]] = []
    position = 0
    while position < len(expression) or tests:
        found = _SELECTOR.match(expression, position)
        if found is None or expression[found.end() : found.end() + 1] not in ("", ","):
            raise SnapshotError(INVALID_ARGUMENT, f"filter {expression!r}: no selector at {position}")
        path = tuple(_bare(part) for part in _PART.findall(found["path"]))
        tests.append(_test(expression, path, found["operator"], _bare(found["value"] or "")))
        if found.end() == len(expression):
            break
        position = found.end() + 1
    return tests


def _bare(word: str) -> str:
    """A word without quotes."""
    if not word.startswith('"'):
        return word
    try:
        return str(json.loads(word))
    except ValueError:
        raise SnapshotError(INVALID_ARGUMENT, f"filter: {word} is not quoted as it should be") from None


def _test(
    expression: str, path: tuple[str, ...], operator: str | None, value: str
) -> Callable[[Lookup], bool]:
    if operator is None:
        return lambda lookup: lookup(path) is not None
    if operator == "==":
        return lambda lookup: lookup(path) == value
    if operator == "!=":
        return lambda lookup: lookup(path) != value
    try:
        pattern = re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise SnapshotError(INVALID_ARGUMENT, f"filter {expression!r}: {error}") from error
    return lambda lookup: (found := lookup(path)) is not None and pattern.search(found) is not None
