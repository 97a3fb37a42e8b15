"""A pull: ranges of many requests in order, what is tried again and how often, what is said of it."""

import collections
import errno
import hashlib
import logging
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cache import pull
from cache.copy import Layer
from cache.partial import Partial
from cache.pull import Pull

MIB = 1 << 20
DATA = random.Random(7).randbytes(11 * MIB + 5)
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


class Failure(OSError):
    """An error as the core gives it."""

    def __init__(self, kind: str) -> None:
        super().__init__(errno.EIO, f"{kind}: GET: no")
        self.kind = kind


class Remote:
    """A blob with a cache, whose fetches do what `on_fetch` says first; it remembers what was asked."""

    def __init__(self, data: bytes = DATA, on_fetch: Callable[[int], object] = lambda at: None) -> None:
        self.data, self.on_fetch = bytearray(data), on_fetch
        self.size = len(data)
        self.local: str | None = None
        self.fetched: list[tuple[int, int]] = []
        self.cached: set[tuple[int, int]] = set()
        self.read: list[tuple[int, int]] = []
        self.distrusted: list[tuple[int, int]] = []
        self.media: Path | None = None
        self.lock = threading.Lock()

    def _fetch(self, offset: int, length: int) -> None:
        with self.lock:
            self.on_fetch(offset)
            self.fetched.append((offset, length))

    def copy_into(self, buffer: memoryview, offset: int, /) -> int:
        self._fetch(offset, len(buffer))
        buffer[:] = self.data[offset : offset + len(buffer)]
        return len(buffer)

    def fill(self, offset: int, length: int, /) -> None:
        self._fetch(offset, length)
        self.cached.add((offset, length))
        if self.media is not None:
            with self.media.open("r+b") as file:
                file.seek(offset)
                file.write(self.data[offset : offset + length])

    def readinto_at(self, buffer: memoryview, offset: int, /) -> int:
        there = tuple(self.cached)  # others may add to it meanwhile
        assert any(at <= offset and offset + len(buffer) <= at + n for at, n in there), "not cached yet"
        self.read.append((offset, len(buffer)))
        buffer[:] = self.data[offset : offset + len(buffer)]
        return len(buffer)

    def missing(self, offset: int, length: int, /) -> list[tuple[int, int]]:
        there = sum(count for _, count in tuple(self.cached))
        return [(there, self.size - there)] if there < self.size else []

    def distrust(self, offset: int, length: int, /) -> None:
        self.distrusted.append((offset, length))
        self.cached.clear()

    def switch_to(self, path: str, on_failure: Callable[[str], None], /) -> None:
        raise AssertionError("nobody reads it")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "_PAUSE_S", 0.0001)
    monkeypatch.setattr(pull, "_BUSY_S", 0.001)


def layer(blob: Remote, directory: Path | str = "", **more: bool) -> Layer:
    return Layer(3, str(directory), DIGEST, "https://r/b", blob, **more)


def ignore(done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("jobs", [1, 4, 100])
def test_a_layer_comes_in_ranges_each_byte_once(tmp_path: Path, jobs: int) -> None:
    blob, seen = Remote(), list[tuple[int, int]]()
    work = Pull([layer(blob, tmp_path)], jobs)
    assert work.run(lambda done, total: seen.append((done, total)))
    assert (tmp_path / "overlaybd.commit").read_bytes() == DATA
    assert sorted(blob.fetched) == [(0, 4 * MIB), (4 * MIB, 4 * MIB), (8 * MIB, 3 * MIB + 5)]
    assert seen[-1] == (len(DATA), len(DATA)) and seen == sorted(seen)
    assert [(each.state, each.error, each.done_bytes) for each in work.outcomes] == [("done", "", len(DATA))]


@pytest.mark.parametrize(("jobs", "step"), [(1, 12 * MIB), (2, 8 * MIB), (3, 4 * MIB), (64, 4 * MIB)])
def test_a_cache_is_filled_range_by_range_and_hashed_in_order(jobs: int, step: int) -> None:
    blob = Remote()
    work = Pull([layer(blob)], jobs)
    assert work.run(ignore)
    starts = range(0, len(DATA), step)
    assert sorted(blob.fetched) == [(start, min(step, len(DATA) - start)) for start in starts]
    assert blob.read == [(at, min(256 << 10, len(DATA) - at)) for at in range(0, len(DATA), 256 << 10)]
    assert blob.distrusted == [] and work.outcomes[0].done_bytes == len(DATA)


def test_a_range_of_a_cache_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "_MAX_RANGE_BYTES", 5 * MIB)
    blob = Remote()
    assert Pull([layer(blob)], 1).run(ignore)
    assert sorted(length for _, length in blob.fetched) == [MIB + 5, 5 * MIB, 5 * MIB]


def test_the_file_that_reads_fill_is_completed_in_place(tmp_path: Path) -> None:
    blob = Remote()
    blob.media = tmp_path / ".download"
    blob.media.touch()
    assert Pull([layer(blob, tmp_path, is_media=True)], 2).run(ignore)
    assert (tmp_path / "overlaybd.commit").read_bytes() == DATA
    assert sum(length for _, length in blob.fetched) == len(DATA)


def test_progress_tells_what_is_in_the_cache_while_it_is_filled() -> None:
    seen, waits = list[int](), threading.Semaphore(1)
    blob = Remote(on_fetch=lambda at: waits.acquire(timeout=60))

    def progress(done: int, total: int) -> None:
        assert total == len(DATA)
        if done not in seen:
            seen.append(done)
            waits.release()

    assert Pull([layer(blob)], 3).run(progress)
    assert seen[0] in (0, 4 * MIB) and seen[-1] == len(DATA) and len(seen) >= 3, "not only at the end"


@pytest.mark.parametrize("directory", [True, False])
@pytest.mark.parametrize(("failures", "good"), [(3, True), (4, False)])
def test_four_failures_without_progress_are_the_end(
    tmp_path: Path,
    directory: bool,
    failures: int,
    good: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = [Failure("io")] * failures

    def fail(at: int) -> None:
        if left and at == 0:
            raise left.pop()

    blob = Remote(on_fetch=fail)
    work, pauses = Pull([layer(blob, tmp_path if directory else "")], 1), list[float]()
    monkeypatch.setattr(pull, "_PAUSE_S", 1.0)
    monkeypatch.setattr(work._stop, "wait", pauses.append)
    with caplog.at_level(logging.INFO, "overlaybd.download"):
        assert work.run(ignore) == good
    assert not left and pauses == [1.0, 2.0, 4.0]
    assert (work.outcomes[0].state, work.outcomes[0].error) == (
        ("done", "") if good else ("failed", "io: GET: no")
    )
    assert [record.getMessage() for record in caplog.records] == ["https://r/b: tried again: io: GET: no"] * 3


def test_failures_count_anew_after_progress(tmp_path: Path) -> None:
    tries = collections.Counter[int]()

    def mostly_fail(at: int) -> None:
        tries[at] += 1
        if tries[at] < 4:
            raise Failure("timed-out")

    blob = Remote(on_fetch=mostly_fail)
    work = Pull([layer(blob, tmp_path)], 1)
    assert work.run(ignore), work.outcomes[0].error
    assert (tmp_path / "overlaybd.commit").read_bytes() == DATA


@pytest.mark.parametrize("kind", ["denied", "not-found"])
def test_what_does_not_pass_is_not_tried_again(tmp_path: Path, kind: str) -> None:
    def refuse(at: int) -> None:
        raise Failure(kind)

    bad, good = Remote(on_fetch=refuse), Remote()
    (tmp_path / "bad").mkdir()
    work = Pull([layer(bad, tmp_path / "bad"), layer(good)], 4)
    assert not work.run(ignore)
    assert [each.state for each in work.outcomes] == ["failed", "done"]
    assert work.outcomes[0].error == f"{kind}: GET: no"


@pytest.mark.parametrize("directory", [True, False])
def test_wrong_bytes_are_fetched_again_once(tmp_path: Path, directory: bool) -> None:
    blob = Remote(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    found = "sha256:" + hashlib.sha256(blob.data).hexdigest()
    work = Pull([layer(blob, tmp_path if directory else "")], 2)
    assert not work.run(ignore)
    assert blob.distrusted == [(0, len(DATA))] * 2
    assert work.outcomes[0].error == f"https://r/b: the registry's bytes are {found}, not {DIGEST}"
    assert list(tmp_path.iterdir()) == []


def test_a_lie_that_is_told_once_does_no_harm(tmp_path: Path) -> None:
    blob = Remote(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    real = blob.distrust

    def mend(offset: int, length: int, /) -> None:
        real(offset, length)
        blob.data = bytearray(DATA)

    blob.distrust = mend  # type: ignore[method-assign]
    assert Pull([layer(blob)], 2).run(ignore)


def test_a_layer_that_another_downloads_is_waited_for(tmp_path: Path) -> None:
    other = Partial.lock(str(tmp_path))
    assert other is not None
    blob, seen = Remote(), 0

    def progress(done: int, total: int) -> None:
        nonlocal seen
        seen += 1
        if seen == 2:
            assert blob.fetched == []
            (tmp_path / "overlaybd.commit").write_bytes(DATA)
            other.release()

    work = Pull([layer(blob, tmp_path)], 2)
    assert work.run(progress)
    assert blob.fetched == [] and work.outcomes[0].done_bytes == len(DATA)


def test_more_layers_than_jobs() -> None:
    blobs = [Remote(DATA[: MIB + at]) for at in range(7)]
    layers = [
        Layer(at, "", "sha256:" + hashlib.sha256(blob.data).hexdigest(), "u", blob)
        for at, blob in enumerate(blobs)
    ]
    work = Pull(layers, 2)
    assert work.run(ignore) and [each.state for each in work.outcomes] == ["done"] * 7
    assert [each.layer.position for each in work.outcomes] == list(range(7))
    assert Pull([], 2).run(ignore), "nothing is soon done"


def test_who_interrupts_it_waits_for_no_silent_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "_STOP_S", 0.01)
    silent, begun = threading.Event(), threading.Event()

    def hang(at: int) -> None:
        begun.set()
        silent.wait(60)

    blobs = [Remote(on_fetch=hang), Remote(on_fetch=hang)]

    def interrupt(done: int, total: int) -> None:
        begun.wait(60)
        raise KeyboardInterrupt

    work = Pull([layer(blob) for blob in blobs], 1)
    with pytest.raises(KeyboardInterrupt):
        work.run(interrupt)
    assert {each.state for each in work.outcomes} == {"running", "waiting"}
    silent.set()


def test_a_digest_that_cannot_be_checked_is_refused_before_anything_is_fetched() -> None:
    blob = Remote()
    with pytest.raises(ValueError, match="only sha256 and sha512"):
        Pull([layer(blob), Layer(1, "", "md5:0", "u", blob)], 1)
