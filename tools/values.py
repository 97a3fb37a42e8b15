"""Converters of command-line words: a word becomes a value, or is refused with upstream's exit status.

A converter takes the word and returns the value. It raises `Unconvertible` for a word that is not of the kind
at all and `Rejected` for one that is, but is not allowed.
"""

from __future__ import annotations

import os

UINT64_MAX = 2**64 - 1
INT32_MAX = 2**31 - 1


class Unconvertible(ValueError):
    """The word is not a value of this kind. Exit status 104."""


class Rejected(ValueError):
    """The word is of the right kind, but this value is not allowed; the text says why. Exit status 105."""


def text(word: str) -> str:
    """Any word."""
    return word


def integer(word: str) -> int:
    """A decimal or 0x number of 32 bits.

    A leading zero, which some programs take for octal, is refused.
    """
    value = _number(word)
    if value is None or not -INT32_MAX - 1 <= value <= INT32_MAX:
        raise Unconvertible
    return value


def non_negative(word: str) -> int:
    """A decimal or 0x number from 0 to 2^64-1."""
    value = _number(word)
    if value is None:
        if _is_fraction(word):
            raise Unconvertible
        raise Rejected("not a number")
    if not 0 <= value <= UINT64_MAX:
        raise Rejected("negative" if value < 0 else "too large")
    return value


def positive(word: str) -> int:
    """A decimal or 0x number from 1 to 2^64-1."""
    value = non_negative(word)
    if value == 0:
        raise Rejected("must be greater than 0")
    return value


def amount_of_bytes(word: str) -> int:
    """A number of bytes from 1 to 2^64-1; K, M, G or T behind it stand for powers of 1024."""
    shift = {"K": 10, "M": 20, "G": 30, "T": 40}.get(word[-1:].upper(), 0)
    value = positive(word[:-1] if shift else word) << shift
    if value > UINT64_MAX:
        raise Rejected("too large")
    return value


def existing_file(word: str) -> str:
    """The path of something that exists and is not a directory."""
    if not os.path.exists(word):
        raise Rejected("file does not exist")
    if os.path.isdir(word):
        raise Rejected("is a directory, not a file")
    return word


class Choice:
    """One of a fixed set of words."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def __call__(self, word: str) -> str:
        """The word itself, if it is one of the set."""
        if word not in self.words:
            raise Rejected(f"must be one of: {', '.join(self.words)}")
        return word


def boolean(word: str) -> bool:
    """What may stand after `--flag=`: true or false, or one of their usual other names."""
    lower = word.lower()
    if lower in ("true", "yes", "on", "1"):
        return True
    if lower in ("false", "no", "off", "0"):
        return False
    raise Unconvertible


def _number(word: str) -> int | None:
    sign, digits = 1, word
    if word[:1] in ("+", "-"):
        sign, digits = -1 if word[0] == "-" else 1, word[1:]
    if not digits.isascii() or not digits.isalnum() or len(digits) > 20:
        return None
    if digits[:2] in ("0x", "0X"):
        try:
            return sign * int(digits, 0)
        except ValueError:
            return None
    if not digits.isdigit() or (digits[0] == "0" and digits != "0"):
        return None
    return sign * int(digits)


def _is_fraction(word: str) -> bool:
    try:
        return 0 <= float(word) < float("inf")
    except ValueError:
        return False
