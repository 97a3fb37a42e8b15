"""What is fuzzed: a parser, good inputs of it, and what it may raise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from obd.credentials.source import LookupFailed
from obd.errors import ObdError, line_of

# Processor time of one input, which takes a thousandth of that: for machines that are slow and busy.
MAX_SECONDS: Final = 10.0
# Of a message; what is escaped takes some for one.
MAX_CHARACTERS: Final = 20_000


@dataclass(frozen=True)
class Target:
    """`run` gets bytes of a stranger: it returns, or raises `errors`, that tell in one line what is wrong."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    errors: tuple[type[Exception], ...] = (ObdError, LookupFailed)


def check(target: Target, data: bytes) -> None:
    """One input. Raises whatever the target must not raise."""
    # The clock on the wall is read without the kernel; the processor's takes longer than most targets.
    since = time.perf_counter()
    _run(target, data)
    if time.perf_counter() - since > MAX_SECONDS:
        since = time.process_time()
        _run(target, data)
        took_s = time.process_time() - since
        assert took_s < MAX_SECONDS, f"{took_s:.1f} s for {len(data)} bytes"


def _run(target: Target, data: bytes) -> None:
    try:
        target.run(data)
    except target.errors as error:
        line = line_of(error)
        shown = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        assert shown and shown.isprintable(), f"not one line for people: {line!r}"
        assert len(line) < MAX_CHARACTERS, f"{len(line)} characters of {line[:200]!r}"
