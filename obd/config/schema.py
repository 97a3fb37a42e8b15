"""Typed objects from JSON objects: each class lists its keys, this module checks and fills them.

A class is a frozen dataclass whose fields are declared with `text`, `integer`, `flag`, `choice`, `strings`,
`table`, `array` or `tables`.
Whatever has the wrong type or is out of range is refused with one line: key, value, what is allowed.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeVar

from obd.config.errors import ConfigError, shown
from obd.secret import without_secrets

T = TypeVar("T", bound="Table")

U32: Final = (1 << 32) - 1
U64: Final = (1 << 64) - 1
I32_MIN: Final = -(1 << 31)
I32_MAX: Final = (1 << 31) - 1

# What no path or URL has: control characters, and halves of pairs, which no UTF-8 has either.
_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

# Converts and checks one value: (value, where) -> the field's value.
_Check = Callable[[Any, "_Where"], Any]


@dataclasses.dataclass(frozen=True)
class _Where:
    """The place in the document that is being read, and the list that takes the unknown keys found."""

    path: str
    unknown: list[str]

    def member(self, key: str) -> "_Where":
        return _Where(f"{self.path}.{key}" if self.path else key, self.unknown)

    def item(self, position: int) -> "_Where":
        return _Where(f"{self.path}[{position}]", self.unknown)

    def refuse(self, value: object, allowed: str, *, secret: bool = False) -> ConfigError:
        return ConfigError(f"{self.path}: {'(hidden)' if secret else shown(value)} is not allowed: {allowed}")


class Table:
    """Base of all configuration objects: knows its keys, and hides what may hold a secret from `repr`."""

    # Keys that other programs write here and that mean nothing to this one: no warning for them.
    SILENT: ClassVar[frozenset[str]] = frozenset()

    def __repr__(self) -> str:
        parts = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.metadata.get("secret") and value:
                value = (
                    without_secrets(value) if isinstance(value, str) else tuple(map(without_secrets, value))
                )
            parts.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


def build(cls: type[T], root: dict[str, Any]) -> tuple[T, list[str]]:
    """An object of `cls` from the JSON object `root`, and the keys found that no field knows.

    Such a key is told by its place, `a.b[0].c`, and the nearest known name if one is near.
    Raises `ConfigError` (without a file name) on the first value that is not allowed.
    """
    unknown: list[str] = []
    return _fill(cls, root, _Where("", unknown)), unknown


def _fill(cls: type[T], members: dict[str, Any], where: _Where) -> T:
    values: dict[str, Any] = {}
    known: set[str] = set(cls.SILENT)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        key: str | None = field.metadata.get("key")
        if key is None:
            continue
        known.add(key)
        if key in members:
            values[field.name] = field.metadata["check"](members[key], where.member(key))
    where.unknown.extend(where.member(key).path + _nearest(key, known) for key in members if key not in known)
    return cls(**values)


def _nearest(key: str, known: set[str]) -> str:
    """What to say behind an unknown key when it looks like a known one."""
    import difflib

    names = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(key.casefold(), names, 1)
    return f" (did you mean {names[close[0]]}?)" if close else ""


def text(key: str, default: str = "", *, secret: bool = False) -> Any:
    """A string; `secret`: a URL whose user part or query may hold a secret, so that `repr` shows less."""

    def check(value: Any, where: _Where) -> str:
        return _string(value, where, secret)

    return dataclasses.field(default=default, metadata={"key": key, "check": check, "secret": secret})


def strings(key: str, *, secret: bool = False) -> Any:
    """An array of strings, as a tuple; `secret` as for `text`."""

    def check(value: Any, where: _Where) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise where.refuse(value, "must be an array of strings", secret=secret)
        return tuple(_string(item, where.item(position), secret) for position, item in enumerate(value))

    return dataclasses.field(default=(), metadata={"key": key, "check": check, "secret": secret})


def _string(value: Any, where: _Where, secret: bool) -> str:
    if not isinstance(value, str):
        raise where.refuse(value, "must be a string", secret=secret)
    if bad := _FORBIDDEN.search(value):
        raise ConfigError(f"{where.path}: character U+{ord(bad[0]):04X} is not allowed in a path or URL")
    return value


def integer(key: str, default: int | None, low: int, high: int) -> Any:
    """An integer from `low` to `high`, both included; `true`, `1.0` and `"1"` are none."""

    def check(value: Any, where: _Where) -> int:
        if type(value) is not int or not low <= value <= high:
            raise where.refuse(value, f"must be an integer from {low} to {high}")
        return value

    return dataclasses.field(default=default, metadata={"key": key, "check": check})


def flag(key: str, default: bool) -> Any:
    """`true` or `false`."""

    def check(value: Any, where: _Where) -> bool:
        if not isinstance(value, bool):
            raise where.refuse(value, "must be true or false")
        return value

    return dataclasses.field(default=default, metadata={"key": key, "check": check})


def choice(key: str, default: str, allowed: tuple[str, ...]) -> Any:
    """One of the strings `allowed`."""

    def check(value: Any, where: _Where) -> str:
        if value not in allowed:
            names = ", ".join(f'"{name}"' for name in allowed)
            raise where.refuse(value, f"must be one of {names}")
        return str(value)

    return dataclasses.field(default=default, metadata={"key": key, "check": check})


def table(key: str, cls: type[T], *, optional: bool = False) -> Any:
    """An object of `cls`; when absent, one with all defaults, or None if `optional`."""

    def check(value: Any, where: _Where) -> T:
        if not isinstance(value, dict):
            raise where.refuse(value, "must be an object")
        return _fill(cls, value, where)

    metadata = {"key": key, "check": check}
    if optional:
        return dataclasses.field(default=None, metadata=metadata)
    return dataclasses.field(default_factory=cls, metadata=metadata)


def array(key: str, cls: type[T]) -> Any:
    """An array of objects of `cls`, as a tuple."""

    def check(value: Any, where: _Where) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise where.refuse(value, "must be an array of objects")
        items = []
        for position, item in enumerate(value):
            at = where.item(position)
            if not isinstance(item, dict):
                raise at.refuse(item, "must be an object")
            items.append(_fill(cls, item, at))
        return tuple(items)

    return dataclasses.field(default=(), metadata={"key": key, "check": check})


def tables(key: str, cls: type[T]) -> Any:
    """An object whose keys are names of the user's choice, and whose members are objects of `cls`: a dict."""

    def check(value: Any, where: _Where) -> dict[str, T]:
        if not isinstance(value, dict):
            raise where.refuse(value, "must be an object of objects")
        items = {}
        for name, item in value.items():
            _string(name, where, False)
            at = _Where(f"{where.path}[{shown(name)}]", where.unknown)
            if not isinstance(item, dict):
                raise at.refuse(item, "must be an object")
            items[name] = _fill(cls, item, at)
        return items

    return dataclasses.field(default_factory=dict, metadata={"key": key, "check": check})
