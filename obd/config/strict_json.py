"""Strict JSON as upstream reads it: UTF-8 without BOM, of repeated keys the first wins, no trailing text."""

import json
from collections.abc import Iterable
from typing import Any, Final, NoReturn

from obd.config.errors import ConfigError
from obd.errors import kind_of

# 255 lowers with every key spelled out and long paths are under 1 MiB; more is not a configuration.
MAX_CONFIG_BYTES: Final = 4 << 20


def read_object(path: str) -> dict[str, Any]:
    """The root object of the JSON file `path`.

    Raises `ConfigError` naming the file if it cannot be read, is longer than `MAX_CONFIG_BYTES`, is not
    strict JSON, or has another root than an object.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except (OSError, ValueError) as error:
        kind = kind_of(error) if isinstance(error, OSError) else "invalid"
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot open: {reason}", kind=kind, file=path) from None
    return parse_object(data, path)


def parse_object(data: bytes, path: str) -> dict[str, Any]:
    """As `read_object`, of bytes that are already there; `path` is for messages only."""

    def refuse(what: str) -> NoReturn:
        raise ConfigError(what, file=path) from None

    if len(data) > MAX_CONFIG_BYTES:
        refuse(f"longer than {MAX_CONFIG_BYTES} bytes: not a configuration")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        refuse(f"not UTF-8 at byte {error.start}")
    try:
        root = json.loads(text, object_pairs_hook=_first_wins, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        refuse(f"not JSON: line {error.lineno} column {error.colno}: {error.msg}")
    except RecursionError:
        refuse("not a configuration: nested too deeply")
    except ValueError as error:  # NaN and Infinity, and integers of thousands of digits
        refuse(f"not JSON: {error}")
    if not isinstance(root, dict):
        refuse("the root must be an object")
    return root


def _first_wins(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in pairs:
        kept.setdefault(key, value)
    return kept


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
