"""SIGINT, SIGTERM and SIGHUP as exceptions, so that work which is stopped clears up after itself.

What is raised while a module is being imported may be lost, or come out as another error: an import is let
through first.
"""

from __future__ import annotations

# What `signal` wraps in enumerations, which take more time to make than a small layer to commit.
import _signal  # type: ignore[import-not-found]
import sys

from tools.errors import Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType, TracebackType
    from typing import Any

# How soon to look again whether an import is over.
_AGAIN_S = 0.01
_IMPORTING = "<frozen importlib"

# The last signal that has been caught here since `forget`.
_caught = 0


def forget() -> None:
    """No signal has been caught so far."""
    global _caught
    _caught = 0


def caught() -> int:
    """The signal that was caught since `forget`, 0 if none: whatever came of its exception on the way."""
    return _caught


def end_at_once() -> None:
    """Has Ctrl-C end the process until its work begins: there is nothing to clear up, and nothing to say."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


class stopping:
    """`with stopping():` has signals raise `Stopped`, or `KeyboardInterrupt`, in the main thread meanwhile.

    Those that are to be ignored (nohup), or that somebody else handles, are left alone.
    """

    def __init__(self, numbers: Iterable[int] = (_signal.SIGTERM, _signal.SIGHUP)) -> None:
        self._numbers = tuple(numbers)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        threading = sys.modules.get("threading")
        if threading is not None and threading.current_thread() is not threading.main_thread():
            return  # only the main thread can set handlers
        for number in (_signal.SIGALRM, *self._numbers):
            if _signal.getsignal(number) in (_signal.SIG_DFL, _signal.default_int_handler):
                self._before[number] = _signal.signal(number, _stop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _signal.SIGALRM in self._before:
            _signal.setitimer(_signal.ITIMER_REAL, 0)
        while self._before:
            _signal.signal(*self._before.popitem())


def _stop(number: int, frame: FrameType | None) -> None:
    global _caught
    if number != _signal.SIGALRM:
        _caught = number
    if _is_importing(frame):
        _signal.setitimer(_signal.ITIMER_REAL, _AGAIN_S)
    elif _caught == _signal.SIGINT:
        raise KeyboardInterrupt
    elif _caught:
        raise Stopped(_caught)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(_IMPORTING):
            return True
        frame = frame.f_back
    return False
