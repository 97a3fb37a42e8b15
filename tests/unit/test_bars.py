"""Progress of several things: a bar for each on a terminal, lines in a log, nothing for short work."""

import io
import re

import pytest

from tests.unit.test_progress import Clock, Terminal
from tools import bars
from tools.bars import MAX_BARS, Bars


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(bars, "time", clock)
    return clock


def work(clock: Clock, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, seconds: int) -> str:
    """What two layers of 10 MiB, at 1 MiB a second each and one after the other, write to `stream`."""
    monkeypatch.setattr("sys.stderr", stream)
    with Bars("copying") as shown:
        for name in ("first", "second"):
            shown.update(name, 0, 10 << 20, running=False)
        for tick in range(seconds * 10):
            name, done = ("first", tick) if tick < 100 else ("second", tick - 100)
            if tick == 100:
                shown.update("first", 0, 10 << 20, ended=True)
            shown.update(name, done * (1 << 20) // 10, 10 << 20)
            shown.tick()
            clock.now += 0.1
    return stream.getvalue()


def screen(drawn: str) -> list[str]:
    """What a terminal shows in the end: cursor up, erase, and lines."""
    lines, at = [""], 0
    for command, text in re.findall(r"(\x1b\[\d*[AKJ]|\r|\n)|([^\x1b\r\n]+)", drawn):
        if command.endswith("A"):
            at -= int(command[2:-1])
        elif command.endswith("J"):
            lines = [*lines[:at], ""]
        elif command == "\n":
            at += 1
            lines.extend([""] * (at + 1 - len(lines)))
        elif text:
            lines[at] = text
    return lines[:at]


def test_short_work_is_quiet(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert work(clock, io.StringIO(), monkeypatch, 4) == ""


def test_a_log_gets_a_line_for_all_now_and_then(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = work(clock, io.StringIO(), monkeypatch, 13).splitlines()
    assert lines[0] == "copying: 0 of 2 done, 5.0 of 20.0 MiB (25 %) after 5 s"
    assert lines[1].startswith("copying: 1 of 2 done, 10.")
    assert len(lines) == 2


def test_a_terminal_gets_a_bar_for_each_that_is_under_way(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = work(clock, Terminal(), monkeypatch, 16)
    *shown, end = drawn.split("\r\x1b[2A")
    assert end == "\x1b[J", "the bars are taken off"
    assert "first [############............] 5.0 of 10.0 MiB (50 %)" in drawn
    assert screen("\r\x1b[2A".join(shown)) == [
        "second [##############..........] 5.9 of 10.0 MiB (58 %)",
        "copying: 1 of 2 done, 15.9 of 20.0 MiB (79 %)",
    ]


def test_no_more_lines_than_a_terminal_has_room_for(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", stream := Terminal())
    with Bars("copying") as shown:
        for number in range(100):
            shown.update(f"{number} with a long name {'x' * 100}", 1, 2)
        clock.now += 1
        shown.tick()
    lines = screen(stream.getvalue().removesuffix("\x1b[J"))
    assert len(stream.getvalue().split("\n")) - 1 == MAX_BARS + 1
    assert all(len(line) < 80 for line in lines)


def test_a_closed_stderr_does_not_matter(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    shown = Bars("copying")
    clock.now += 60
    shown.tick()
    assert shown.what == "copying"
