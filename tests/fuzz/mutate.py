"""Makes inputs for fuzzing of good ones: bytes changed, and documents whose fields are changed one by one."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, Final

MAX_BYTES: Final = 8192

# What programs tend to have forgotten.
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e300, float("inf"), float("nan")),
    *(2**31, 2**32, 2**53, 2**63, 2**64, 10**400, -(10**400)),
    *("", " ", "0", "-1", "x" * 5000, "é", "\ud800", "\x00", "\x1b[31m\n", "\u2028", "../../etc", "9" * 400),
    *("sha256:" + "0" * 64, "sha256:" + "G" * 64, "sha512:", "http://[", "//", "9" * 5000),
    *([], {}, [[]], [{}], {"": {}}, [None] * 300, {"a": [1, {"b": None}]}),
)
_NUMBERS: Final = (0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0x20, 0x0A, 0x22, 0x30, 0x3A)


class Mutator:
    """An endless run of inputs made of `seeds`, the same for the same `seed`. `words` are put in at times."""

    def __init__(self, seeds: Sequence[bytes], words: Sequence[bytes] = (), seed: int = 1) -> None:
        self._random: Final = random.Random(seed)
        self._seeds: Final = list(seeds)
        self._words: Final = [
            *words,
            b"\r\n",
            b'"',
            b"\\",
            b",",
            b"=",
            b"\0",
            b"9" * 25,
            b"\xff",
            b"%00",
            b"\xc3\xa9",
        ]
        # As texts: a document made of one anew is got sooner than a copy.
        self._documents: Final = [json.dumps(it) for data in seeds if (it := _parsed(data)) is not None]

    def next(self) -> bytes:
        """The next input."""
        if self._documents and self._random.random() < 0.7:
            data = self._document()
            if self._random.random() < 0.9:
                return data
        else:
            data = self._random.choice(self._seeds)
        for _ in range(self._random.choice((1, 1, 2, 4, 16))):
            data = self._changed(data)
        return data[:MAX_BYTES]

    def _changed(self, data: bytes) -> bytes:
        """One place of `data` changed."""
        draw = self._random
        at, end = sorted((int(draw.random() * (len(data) + 1)), int(draw.random() * (len(data) + 1))))
        match draw.randrange(8):
            case 0:
                return data[:at] + draw.choice(self._words) + data[at:]
            case 1:
                return data[:at] + draw.choice(self._words) + data[end:]
            case 2:
                return data[:at] + data[min(end, at + 16) :]
            case 3:
                return data[:end] + data[at:]
            case 4:
                other = draw.choice(self._seeds)
                return data[:at] + other[draw.randint(0, len(other)) :]
            case 5:
                return data[:at] + draw.randbytes(draw.choice((1, 2, 4, 8))) + data[at:]
            case 6:
                return data[:at] + bytes([draw.choice(_NUMBERS)]) + data[at + 1 :]
            case _:
                return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]

    def _document(self) -> bytes:
        """A document of which some values are others."""
        document = json.loads(self._random.choice(self._documents))
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            if isinstance(document, dict | list):
                document = self._with_other(document)
        text = json.dumps(document)
        if self._random.random() < 0.1:
            # Twice the same key; which one counts is the reader's to say.
            text = (
                text.replace("{", '{"digest":1,', 1)
                if self._random.random() < 0.5
                else text[:-1] + "," + text[1:]
            )
        return text.encode()

    def _with_other(self, document: Any) -> Any:
        draw = self._random
        places: list[tuple[Any, Any]] = []
        _places(document, places)
        if not places or draw.random() < 0.03:
            return json.loads(json.dumps(draw.choice(_VALUES)))
        parent, key = draw.choice(places)
        match draw.randrange(6):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[draw.choice((key + "x", key.upper(), "", "\ud800", "x" * 300))] = parent.pop(key)
            case 2:
                other_parent, other = draw.choice(places)
                # By way of JSON, so that nothing contains itself.
                parent[key] = json.loads(json.dumps(other_parent[other]))
            case 3 if isinstance(parent[key], str):
                raw = parent[key].encode("utf-8", "surrogatepass")
                parent[key] = self._changed(raw).decode("utf-8", "surrogateescape")
            case 4 if isinstance(parent[key], list):
                parent[key] = parent[key] * draw.choice((0, 2, 300))
            case _:
                value = draw.choice(_VALUES)
                parent[key] = json.loads(json.dumps(value)) if isinstance(value, dict | list) else value
        return document


def _parsed(data: bytes) -> Any:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def _places(document: Any, found: list[tuple[Any, Any]]) -> None:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        found.append((document, key))
        if isinstance(value, dict | list):
            _places(value, found)
