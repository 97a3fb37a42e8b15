"""The line that a failing command writes."""

import errno
import os

import pytest

from obd.errors import ObdError, line_of
from tools.errors import describe, errno_and_line, say, tell


class CoreError(OSError):
    """Stands in for the core's error, which carries its whole line."""

    kind = "corrupt"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (CoreError(errno.EIO, "corrupt: /a: at 4096: bad magic"), "corrupt: /a: at 4096: bad magic"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/a"), "not-found: /a: No such file"),
        (OSError(errno.ENOSPC, "No space left"), "no-space: No space left"),
        (OSError("odd"), "io: odd"),
        (ValueError("two\nlines"), "two lines"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_describe(error: BaseException, line: str) -> None:
    assert describe(error) == line


def test_what_a_stranger_wrote_stays_one_line_and_moves_no_cursor() -> None:
    error = ObdError("not-found", "there are: \x1b[2J\r\n\u2028\ud800/é", os.fsdecode(b"/caf\xe9"))
    line = "not-found: /caf\udce9: there are: \\x1b[2J\\r \\u2028\\ud800/é"
    assert str(error) == line_of(error) == describe(error) == line
    assert len(str(ObdError("corrupt", "x" * 100_000))) < 2000


def test_errno_and_line() -> None:
    assert errno_and_line(CoreError(errno.EIO, "corrupt: /a")) == "5: corrupt: /a"
    assert errno_and_line(ValueError("x")) == "5: x"


def test_names_come_out_as_they_came_in(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    tell(os.fsdecode(b"caf\xe9"))
    assert capfdbinary.readouterr().out == b"caf\xe9\n"


def test_words_of_foreigners_do_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The name of a tag, or what a registry says, with a sequence that erases the screen or turns text."""
    say("there are: \x1b[2Jv1\r\x9b1m \u202e, \t\xe9")
    assert capsys.readouterr().err == "there are: \ufffd[2Jv1\ufffd\ufffd1m \ufffd, \t\xe9\n"
