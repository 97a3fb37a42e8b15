"""SIGTERM and SIGHUP as an exception, so that work which is stopped clears up after itself."""

from __future__ import annotations

import signal
from contextlib import contextmanager

from tools.errors import Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any


@contextmanager
def stopping() -> Iterator[None]:
    """Has the two raise `Stopped` in the main thread meanwhile, unless they are to be ignored."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    old: dict[int, Any] = {}
    for number in (int(signal.SIGTERM), int(signal.SIGHUP)):
        if signal.getsignal(number) == signal.SIG_DFL:
            old[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
