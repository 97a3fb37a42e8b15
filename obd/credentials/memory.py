"""What a source has answered, for a short while: one question at a time however many readers ask it."""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from obd.credentials.source import LookupFailed

V = TypeVar("V")

# Seconds that an answer, and that a failure, is good for. Long enough for all layers of an image that starts,
# too short for anybody to wait for after a change.
ANSWER_S: Final = 10.0
FAILURE_S: Final = 5.0
# What is younger is not asked for again even when it was refused: others who were refused have just done so.
FRESH_S: Final = 1.0
# Answers kept: more repositories than one host has in use within seconds.
MAX_ANSWERS: Final = 1024
# Questions under way at a time; equal ones wait for each other.
_LANES: Final = 16


class Answer(NamedTuple, Generic[V]):
    """An answer, how many seconds it is good for, and the key that it is the answer for."""

    value: V
    life_s: float = ANSWER_S
    key: Hashable = None
    """One of the keys asked with; None: the first."""


class _Kept(NamedTuple, Generic[V]):
    value: V | LookupFailed
    since: float
    until: float


class Memory(Generic[V]):
    """Remembers answers by key. `clock` tells seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes = [threading.Lock() for _ in range(_LANES)]
        self._kept: dict[Hashable, _Kept[V]] = {}

    def get(self, keys: Sequence[Hashable], ask: Callable[[], Answer[V]]) -> V:
        """The answer kept for the first of `keys` that has one, or that of `ask`.

        Raises `LookupFailed`, of `ask` now or of one shortly before.
        """
        kept = self._find(keys)
        if kept is None:
            with self._lanes[hash(keys[0]) % _LANES]:
                kept = self._find(keys) or self._ask(keys[0], ask)
        if isinstance(kept.value, LookupFailed):
            raise LookupFailed(*kept.value.args)
        return kept.value

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Drops what is kept for `keys`, unless it is fresh."""
        with self._lock:
            for key in keys:
                kept = self._kept.get(key)
                if kept is not None and self._clock() - kept.since >= FRESH_S:
                    del self._kept[key]

    def clear(self) -> None:
        """Drops everything."""
        with self._lock:
            self._kept.clear()

    def _find(self, keys: Sequence[Hashable]) -> _Kept[V] | None:
        with self._lock:
            now = self._clock()
            for key in keys:
                kept = self._kept.get(key)
                if kept is not None and now < kept.until:
                    return kept
        return None

    def _ask(self, first: Hashable, ask: Callable[[], Answer[V]]) -> _Kept[V]:
        key = first
        value: V | LookupFailed
        try:
            answer = ask()
            value, life_s = answer.value, answer.life_s
            key = first if answer.key is None else answer.key
        except LookupFailed as failure:
            value, life_s = failure, FAILURE_S
        now = self._clock()
        kept = _Kept(value, now, now + life_s)
        with self._lock:
            # A secret that is not used any more is not kept either.
            self._kept = {k: v for k, v in self._kept.items() if now < v.until}
            if len(self._kept) >= MAX_ANSWERS:
                self._kept.clear()
            self._kept[key] = kept
        return kept
