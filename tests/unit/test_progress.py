"""Progress: nothing for short work, lines in a log, a bar on a terminal."""

import io

import pytest

from tools import progress
from tools.progress import Progress, amount


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time that moves only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def work(clock: Clock, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, seconds: int) -> str:
    """What 10 calls a second for so long write to `stream`."""
    monkeypatch.setattr("sys.stderr", stream)
    with Progress("committing") as report:
        for tick in range(seconds * 10):
            report(tick << 20, seconds * 10 << 20)
            clock.now += 0.1
    return stream.getvalue()


def test_short_work_is_quiet(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert work(clock, io.StringIO(), monkeypatch, 4) == ""


def test_a_log_gets_a_line_now_and_then(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = work(clock, io.StringIO(), monkeypatch, 18).splitlines()
    assert lines[0] == "committing: 50.0 of 180.0 MiB (27 %) after 5 s"
    assert len(lines) == 3


def test_a_terminal_gets_a_bar_that_is_taken_off(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = work(clock, Terminal(), monkeypatch, 2)
    assert "\rcommitting [###############...............] 10.0 of 20.0 MiB (50 %)" in drawn
    assert drawn.endswith("\r\x1b[K")
    assert "\n" not in drawn


def test_a_terminal_stays_clean_for_short_work(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", stream := Terminal())
    with Progress("committing") as report:
        report(1, 2)
    assert stream.getvalue() == ""


def test_amount() -> None:
    assert amount(1 << 20, 0) == "1.0 MiB"
    assert amount(1 << 20, 4 << 20) == "1.0 of 4.0 MiB (25 %)"
    assert amount(5 << 20, 4 << 20) == "5.0 of 4.0 MiB (100 %)"


def test_a_closed_stderr_does_not_matter(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    report = Progress("committing")
    clock.now += 60
    report(1, 2)
    assert report.what == "committing"
