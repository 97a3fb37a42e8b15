"""When a background download does what: delays, pauses, turns, rate, by a clock that only waiting moves."""

import errno
import hashlib
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache import download
from cache.copy import Layer
from cache.download import Downloads, Settings, is_final, one_line
from cache.partial import Partial

KIB = 1 << 10
DATA = random.Random(9).randbytes(1_000_001)
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


class Clock:
    """Time, and the event that stops the work."""

    def __init__(self) -> None:
        self.now, self.waits, self.stopped = 5000.0, list[float](), False
        self.on_wait: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        assert seconds >= 0
        self.waits.append(round(seconds, 6))
        self.now += seconds
        self.on_wait()

    def is_set(self) -> bool:
        return self.stopped

    def set(self) -> None:
        self.stopped = True


class Failure(OSError):
    """An error as the core gives it."""

    def __init__(self, kind: str = "io") -> None:
        super().__init__(errno.EIO, f"{kind}: GET: no")
        self.kind = kind


class Remote:
    """A blob that does what `on_read` says first."""

    def __init__(self, on_read: Callable[[int], object] = lambda offset: None) -> None:
        self.on_read, self.size = on_read, len(DATA)
        self.local: str | None = None
        self.reads: list[tuple[int, int]] = []
        self.there: set[int] = set()
        self.media: Path | None = None
        self.on_failure: Callable[[str], None] = print

    def copy_into(self, buffer: memoryview, offset: int, /) -> int:
        self.on_read(offset)
        self.reads.append((offset, len(buffer)))
        buffer[:] = DATA[offset : offset + len(buffer)]
        return len(buffer)

    readinto_at = copy_into

    def fill(self, offset: int, length: int, /) -> None:
        self.on_read(offset)
        self.reads.append((offset, length))
        assert self.media is not None
        with self.media.open("r+b") as file:
            file.seek(offset)
            file.write(DATA[offset : offset + length])

    def missing(self, offset: int, length: int, /) -> list[tuple[int, int]]:
        return [(offset, length - 1), (offset, 1)] if offset not in self.there else []

    def distrust(self, offset: int, length: int, /) -> None:
        raise AssertionError("it is right")

    def switch_to(self, path: str, on_failure: Callable[[str], None], /) -> None:
        assert self.local is None
        self.local, self.on_failure = path, on_failure


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr(random, "random", lambda: 0.5)
    monkeypatch.setattr(random, "uniform", lambda low, high: high if (low, high) == (0.5, 1) else 1 / 0)
    return clock


def prepared(directory: Path, clock: Clock, *blobs: Remote, **settings: Any) -> Downloads:
    """The download of some layers, to be run by `_work` in this thread, by this clock."""
    layers = []
    for position, blob in enumerate(blobs):
        (directory / str(position)).mkdir()
        if blob.media is not None:
            blob.media = directory / str(position) / ".download"
            blob.media.touch()
        layers.append(
            Layer(
                position, str(directory / str(position)), DIGEST, "https://r/b", blob, blob.media is not None
            )
        )
    usual = {"delay_s": 0, "delay_extra_s": 0.002, "bytes_per_s": 0, "attempts": 1, "step_bytes": 256 * KIB}
    work = Downloads("image", layers, Settings(**{**usual, **settings}))
    for name, value in {"_wait": clock.wait, "_clock": clock.monotonic, "_free_at": clock.now}.items():
        setattr(work._rate, name, value)
    setattr(work, "_stop", clock)  # noqa: B010
    return work


def states(work: Downloads) -> list[str]:
    return [each.state for each in work.progress()]


def failing(times: int, at: int = 0) -> Callable[[int], None]:
    """Reads at an offset fail so often."""
    left = [Failure()] * times

    def fail(offset: int) -> None:
        if left and offset == at:
            raise left.pop()

    return fail


@pytest.mark.parametrize(
    ("delay", "extra", "wait"), [(300, 20, 310), (5, 0, 20), (5, -1, 20), (-10, 2, 1), (0, 0.5, 0.25)]
)
def test_the_first_byte_comes_after_the_delay(
    tmp_path: Path, clock: Clock, delay: float, extra: float, wait: float
) -> None:
    blob = Remote()
    work = prepared(tmp_path, clock, blob, delay_s=delay, delay_extra_s=extra)
    clock.on_wait = lambda: blob.reads and pytest.fail("too early")
    work._work()
    assert clock.waits == [wait] and states(work) == ["done"]


@pytest.mark.parametrize(("attempts", "failures"), [(1, 10), (0, 10), (2, 15)])
def test_pauses_double_up_to_a_minute_until_it_has_been_too_long(
    tmp_path: Path, clock: Clock, attempts: int, failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    """An attempt stands for 300 s without a byte."""
    pauses = [1, 2, 4, 8, 16, 32, *[60] * 20][:failures]
    good, bad = Remote(failing(failures)), Remote(failing(failures + 1))
    with caplog.at_level(logging.DEBUG, "overlaybd.download"):
        for number, (blob, state) in enumerate({good: "done", bad: "failed"}.items()):
            (tmp_path / str(number)).mkdir()
            work = prepared(tmp_path / str(number), clock, blob, attempts=attempts)
            clock.waits.clear()
            work._work()
            assert (states(work), clock.waits[1:]) == ([state], pauses)
            assert [each.error for each in work.progress()] == ["io: GET: no" if state == "failed" else ""]
    assert {record.name for record in caplog.records} == {"overlaybd.download"}
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    paused = "image: layer 0: download stopped at 0, goes on when it can: io: GET: no"
    assert said[:failures] == [("WARNING", paused)] + [("DEBUG", paused)] * (failures - 1)
    assert said[-1] == ("ERROR", "image: layer 0 is not downloaded, it stays remote: io: GET: no")


def test_a_byte_makes_pauses_short_again(tmp_path: Path, clock: Clock) -> None:
    second = failing(3, 256 * KIB)
    first = failing(3)

    def both(offset: int) -> None:
        first(offset)
        second(offset)

    blob = Remote(both)
    work = prepared(tmp_path, clock, blob)
    work._work()
    assert states(work) == ["done"] and clock.waits[1:] == [1, 2, 4, 1, 2, 4]


def test_others_go_on_while_one_pauses(tmp_path: Path, clock: Clock) -> None:
    order: list[int] = []

    def noted(number: int, then: Callable[[int], object]) -> Callable[[int], object]:
        def act(offset: int) -> None:
            order.append(number)
            then(offset)

        return act

    blobs = [Remote(noted(0, failing(1))), Remote(noted(1, failing(1))), Remote(noted(2, failing(0)))]
    work = prepared(tmp_path, clock, *blobs, step_bytes=4096 * KIB)
    work._work()
    assert order == [0, 1, 2, 0, 1] and states(work) == ["done"] * 3
    assert clock.waits[1:] == [1], "both pauses go by together"


def test_a_layer_that_another_downloads_is_looked_at_each_second(tmp_path: Path, clock: Clock) -> None:
    blob = Remote()
    work = prepared(tmp_path, clock, blob)
    other = Partial.lock(str(tmp_path / "0"))
    assert other is not None
    seen: list[list[str]] = []

    def later() -> None:
        seen.append(states(work))
        if len(seen) == 4:
            (tmp_path / "0" / "overlaybd.commit").write_bytes(DATA)
            other.release()

    clock.on_wait = later
    work._work()
    assert seen == [["waiting"], ["busy"], ["busy"], ["busy"]] and clock.waits[1:] == [1, 1, 1]
    assert (states(work), blob.reads) == (["done"], []) and blob.local is not None
    assert work.progress()[0].done_bytes == len(DATA)


class Turns:
    """Turns of which some are not to be had at once."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.taken, self.patience = refusals, 0, list[float]()

    def acquire(self, timeout: float) -> bool:
        self.patience.append(timeout)
        self.refusals -= 1
        self.taken += self.refusals < 0
        return self.refusals < 0

    def release(self) -> None:
        self.taken -= 1


@pytest.mark.parametrize(
    "failure", [None, Failure(), Failure("denied"), RuntimeError("a mistake"), ValueError("x")]
)
def test_turns_are_waited_for_and_given_back(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, failure: Exception | None
) -> None:
    turns, failures = Turns(2), [failure] if failure else []

    def fail(offset: int) -> None:
        assert turns.taken == 1
        if failures:
            raise failures.pop()

    monkeypatch.setattr(download, "_TURNS", turns)
    work = prepared(tmp_path, clock, Remote(fail))
    work._work()
    passes = isinstance(failure, Failure | None) and getattr(failure, "kind", "io") == "io"
    assert states(work) == ["done" if passes else "failed"]
    assert turns.taken == 0 and turns.patience == [1.0] * (4 if failure and passes else 3)


def test_a_mistake_is_told_with_its_place(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def mistake(offset: int) -> None:
        raise RuntimeError("a mistake")

    work = prepared(tmp_path, clock, Remote(mistake), Remote())
    work._work()
    assert states(work) == ["failed", "done"] and work.progress()[0].error == "a mistake"
    assert any(record.exc_info and "layer 0" in record.getMessage() for record in caplog.records)


def test_a_stop_ends_it_after_the_step(tmp_path: Path, clock: Clock) -> None:
    def stop_later(offset: int) -> None:
        clock.stopped = offset > 0

    blob, other = Remote(stop_later), Remote()
    work = prepared(tmp_path, clock, blob, other)
    work._work()
    assert len(blob.reads) == 2 and other.reads == [] and states(work) == ["waiting", "waiting"]
    assert work.progress()[0].error == ""
    clock.stopped = False
    blob.on_read = lambda offset: None
    again = Downloads("image", [work._jobs[0].layer], work._settings)
    setattr(again, "_stop", clock)  # noqa: B010
    again._work()
    assert blob.reads[2][0] == sum(count for _, count in blob.reads[:2]) // 4096 * 4096, (
        "it goes on from there"
    )
    work.stop()


@pytest.mark.parametrize("media", [False, True])
def test_the_rate_is_kept_and_what_is_there_costs_nothing(tmp_path: Path, clock: Clock, media: bool) -> None:
    blob = Remote()
    blob.media = tmp_path if media else None
    work = prepared(tmp_path, clock, blob, bytes_per_s=400_000)
    if media:
        blob.there = {0}
        assert blob.media is not None
        (tmp_path / "0/.download").write_bytes(DATA[:102_400])
    begin = clock.now
    work._work()
    steps = [(at, min(102_400, len(DATA) - at)) for at in range(0, len(DATA), 102_400)]
    assert blob.reads == steps[1 if media else 0 :], "a step is a quarter of a second, in whole pages"
    paid = sum(count for _, count in blob.reads)
    assert clock.now - begin == pytest.approx(paid / 400_000, abs=0.01)
    assert states(work) == ["done"]
    assert (tmp_path / "0/overlaybd.commit").read_bytes() == DATA


@pytest.mark.parametrize("media", [False, True])
def test_steps_follow_the_line(tmp_path: Path, clock: Clock, media: bool) -> None:
    times, seen = iter([0, 0, 3, 1, 0, 0, 0]), list[int]()

    def slowly(offset: int) -> None:
        clock.now += next(times)
        seen.append(work.progress()[0].done_bytes)

    blob = Remote(slowly)
    blob.media = tmp_path if media else None
    work = prepared(tmp_path, clock, blob, step_bytes=64 * KIB)
    work._work()
    sizes = [64, 128, 256, 128, 128, 256]
    assert [length for _, length in blob.reads[:6]] == [size * KIB for size in sizes]
    assert sum(length for _, length in blob.reads) == len(DATA)
    assert seen[:4] == [0, 64 * KIB, 192 * KIB, 448 * KIB] and states(work) == ["done"]


def test_reads_go_to_the_file_unless_they_do_already(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    blob, switched = Remote(), Remote()
    switched.local = "/elsewhere"
    work = prepared(tmp_path, clock, blob, switched)
    with caplog.at_level(logging.INFO, "overlaybd.download"):
        work._work()
    path = str(tmp_path / "0/overlaybd.commit")
    assert (blob.local, switched.local, states(work)) == (path, "/elsewhere", ["done", "done"])
    where = f"image: layer 0: in place after 0.0 s, read from {path} from now on"
    assert [record.getMessage() for record in caplog.records] == [where]
    blob.on_failure("io: read: gone")
    said = "image: layer 0: the local file failed, reads go to the registry again: io: read: gone"
    assert (caplog.records[-1].levelname, caplog.records[-1].getMessage()) == ("ERROR", said)


def test_progress_says_all_of_each_layer(tmp_path: Path) -> None:
    layers = [Layer(at, str(tmp_path), DIGEST, "https://r/b", Remote(), is_target=at == 5) for at in (3, 5)]
    work = Downloads("image", layers, Settings(1, 1, 1, 1, 1))
    for position, each in zip((3, 5), work.progress(), strict=True):
        assert each == download.LayerProgress(
            position, DIGEST, "waiting", 0, len(DATA), "", is_target=position == 5
        )
    work.stop()


@pytest.mark.parametrize(
    "kind", ["not-found", "denied", "invalid", "out-of-bounds", "unsupported", "read-only"]
)
def test_what_trying_again_does_not_mend(kind: str) -> None:
    assert is_final(Failure(kind))


def test_what_trying_again_may_mend() -> None:
    assert not any(is_final(Failure(kind)) for kind in ("io", "timed-out", "busy", "corrupt", "limit"))
    assert not is_final(OSError(errno.EIO, "no")) and not is_final(OSError(errno.ENOSPC, "full"))
    final = (FileNotFoundError(), NotADirectoryError(), PermissionError(), ValueError())
    assert all(is_final(error) for error in final)


def test_an_error_is_one_line_with_its_file() -> None:
    assert one_line(OSError(errno.EIO, "no\nway", "/a/file")) == "/a/file: no way"
    assert one_line(OSError(errno.EIO, "no")) == "no"
    assert one_line(ValueError("wrong")) == "wrong"
    assert one_line(KeyError()) == "KeyError"
