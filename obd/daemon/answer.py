"""A reply that the kernel waits for: given exactly once, in time, whatever happens."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

import tcmu
from obd.errors import line_of

_log: Final = logging.getLogger("overlaybd.tcmu")


class Answer:
    """The reply to one event. The first one that is given counts; safe for use by several threads."""

    def __init__(self, link: tcmu.Link, event: tcmu.Event, limit_s: float) -> None:
        self.event: Final = event
        self._link: Final = link
        self._deadline: Final = time.monotonic() + limit_s
        self._lock: Final = threading.Lock()
        self._given = False

    def give(self, error: int = 0) -> bool:
        """Tells the kernel the outcome, 0 or an errno. False if it has been told already."""
        with self._lock:
            if self._given:
                return False
            self._given = True
        try:
            self._link.reply(self.event, error)
        except OSError as failure:
            # It does not wait: it was told not to (`nl_reply_supported`), or another program reset the link.
            _log.info("%s: nobody waits for the reply: %s", self.event.device.backstore, line_of(failure))
        return True

    @property
    def given(self) -> bool:
        """Whether the kernel has been told."""
        return self._given

    @property
    def overdue(self) -> bool:
        """Whether the kernel has waited for too long."""
        return not self._given and time.monotonic() > self._deadline


class Owed:
    """The replies that are still to be given."""

    def __init__(self) -> None:
        self._answers: list[tuple[Answer, Callable[[Answer], object]]] = []

    def add(self, answer: Answer, when_overdue: Callable[[Answer], object]) -> None:
        """Remembers one; `when_overdue` has to give it."""
        self._answers.append((answer, when_overdue))

    def check(self) -> None:
        """Deals with those that are overdue, and forgets those that have been given."""
        for answer, when_overdue in self._answers:
            if answer.overdue:
                when_overdue(answer)
        self._answers = [(answer, act) for answer, act in self._answers if not answer.given]

    def waiting(self) -> list[Answer]:
        """Those that have not been given."""
        return [answer for answer, _ in self._answers if not answer.given]
