"""What a background download does about each failure, with a blob that follows a script and no waiting."""

import errno
import hashlib
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from cache import copy, download, pull
from cache.copy import Layer
from cache.download import Downloads, Settings
from cache.partial import Partial
from cache.pipe import MAX_STEP_BYTES, Steps
from cache.pull import Pull
from cache.verify import Hasher

DATA = random.Random(1).randbytes(1_000_001)
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


class Refused(OSError):
    """An error as the core gives it."""

    def __init__(self, kind: str) -> None:
        super().__init__(errno.EIO, f"{kind}: GET: no")
        self.kind = kind


class Scripted:
    """A blob whose reads do what the script says, one after the other, then succeed."""

    def __init__(self, script: list[object] | None = None) -> None:
        self.script = script or []
        self.local: str | None = None
        self.reads: list[tuple[int, int]] = []
        self.distrusted = 0
        self.filled: list[tuple[int, int]] = []
        self.evicted: list[tuple[int, int]] = []
        self.size = len(DATA)
        self.on_read: Callable[[], object] = lambda: None

    def copy_into(self, buffer: memoryview, offset: int) -> int:
        self.on_read()
        act = self.script.pop(0) if self.script else None
        if isinstance(act, Exception):
            raise act
        buffer[:] = DATA[offset : offset + len(buffer)]
        if act == "lie":
            buffer[0] ^= 1
        self.reads.append((offset, len(buffer)))
        return len(buffer)

    def readinto_at(self, buffer: memoryview, offset: int) -> int:
        return self.copy_into(buffer, offset)

    def fill(self, offset: int, length: int) -> None:
        self.filled.append((offset, length))

    def missing(self, offset: int, length: int) -> list[tuple[int, int]]:
        return self.evicted

    def distrust(self, offset: int, length: int) -> bool:
        self.distrusted += 1
        return True

    def switch_to(self, path: str, on_failure: Callable[[str], None]) -> None:
        assert self.local is None
        assert Path(path).read_bytes() == DATA
        self.local = path


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE_S", 0.001)
    monkeypatch.setattr(download, "_MAX_PAUSE_S", 0.002)
    monkeypatch.setattr(download, "_BUSY_S", 0.001)
    monkeypatch.setattr(pull, "_PAUSE_S", 0.001)
    monkeypatch.setattr(random, "random", lambda: 0.0)


def at_once(attempts: int = 5, delay_s: float = 0, bytes_per_s: int = 0) -> Settings:
    return Settings(delay_s, delay_extra_s=30, bytes_per_s=bytes_per_s, attempts=attempts, step_bytes=262144)


def run(directory: Path, *blobs: Scripted, **settings: int) -> Downloads:
    """Downloads into `directory/0`, `directory/1` and so on, to the end."""
    layers = []
    for position, blob in enumerate(blobs):
        (directory / str(position)).mkdir(exist_ok=True)
        layers.append(Layer(position, str(directory / str(position)), DIGEST, "https://r/b", blob))
    work = Downloads("image", layers, at_once(**settings))
    work.start()
    work.join()
    return work


def states(work: Downloads) -> list[str]:
    return [each.state for each in work.progress()]


def test_all_layers_in_order(tmp_path: Path) -> None:
    first, second = Scripted(), Scripted()
    second.on_read = lambda: first.local or pytest.fail("the first is not done")
    assert states(run(tmp_path, first, second)) == ["done", "done"]
    assert first.local == str(tmp_path / "0" / "overlaybd.commit")
    assert os.listdir(tmp_path / "1") == ["overlaybd.commit"]
    assert (tmp_path / "0" / "overlaybd.commit").stat().st_mode & 0o777 == 0o644
    assert [start for start, _ in first.reads] == sorted({start for start, _ in first.reads}), (
        "each byte once"
    )


@pytest.mark.parametrize("kind", ["io", "timed-out", "busy", "corrupt", "limit"])
def test_what_may_pass_is_tried_again_from_there(tmp_path: Path, kind: str) -> None:
    blob = Scripted([None, *[Refused(kind)] * 12, None, Refused(kind)])
    assert states(run(tmp_path, blob, attempts=1)) == ["done"]
    assert sum(count for _, count in blob.reads) <= len(DATA) + 2 * 4096, "nothing is fetched twice"


@pytest.mark.parametrize("kind", ["not-found", "denied", "out-of-bounds"])
def test_what_does_not_pass_ends_it(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Scripted([None, Refused(kind)]), Scripted()
    assert states(run(tmp_path, bad, good, attempts=100)) == ["failed", "done"]
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert lines == [f"image: layer 0 is not downloaded, it stays remote: {kind}: GET: no"]


def test_it_gives_up_after_a_long_time_without_a_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPT_S", 0.01)
    work = run(tmp_path, Scripted([Refused("io")] * 10_000), attempts=2)
    assert states(work) == ["failed"] and work.progress()[0].error == "io: GET: no"


@pytest.mark.parametrize(("lies", "state"), [(1, "done"), (2, "failed")])
def test_wrong_bytes_are_fetched_again_once(tmp_path: Path, lies: int, state: str) -> None:
    blob = Scripted()
    # The first read of each copy lies.
    blob.on_read = lambda: blob.script.append("lie" if begins(blob) and blob.distrusted < lies else None)
    work = run(tmp_path, blob)
    assert states(work) == [state] and blob.distrusted == lies
    assert sum(count for _, count in blob.reads) == 2 * len(DATA)
    assert os.listdir(tmp_path / "0") == (["overlaybd.commit"] if state == "done" else [])


def begins(blob: Scripted) -> bool:
    return sum(count for _, count in blob.reads) % len(DATA) == 0


def failing(number: int, real: Callable[[int], None]) -> Callable[[int], None]:
    """`real`, of which the call of that number, from 1 on, fails."""
    calls = 0

    def call(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    return call


def test_what_a_failed_sync_may_have_lost_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "RECORD_S", -1.0)
    monkeypatch.setattr(os, "fdatasync", failing(2, os.fdatasync))
    blob = Scripted()
    assert states(run(tmp_path, blob)) == ["done"]
    starts = [start for start, _ in blob.reads]
    assert starts[0] == 0 and starts[1:3] == [starts[1]] * 2, "the step whose sync failed, and no other"


def test_what_cannot_be_made_durable_is_fetched_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(1, os.fsync))
    blob = Scripted()
    assert states(run(tmp_path, blob)) == ["done"]
    assert [start for start, _ in blob.reads].count(0) == 2


def test_a_cache_that_cannot_be_made_durable_is_filled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(1, os.fsync))
    (tmp_path / ".download").write_bytes(DATA)
    blob = Scripted()
    layer = Layer(0, str(tmp_path), DIGEST, "https://r/b", blob, is_media=True)
    work = Downloads("image", [layer], at_once())
    work.start()
    work.join()
    assert (states(work), blob.distrusted) == (["done"], 1)


def test_a_full_disk_is_seen_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "SPARE_BYTES", 1 << 62)
    monkeypatch.setattr(download, "ATTEMPT_S", 0.01)
    blob = Scripted()
    work = run(tmp_path, blob, attempts=1)
    assert states(work) == ["failed"] and blob.reads == []
    assert "free" in work.progress()[0].error and str(tmp_path / "0") in work.progress()[0].error


def test_only_digests_that_can_be_checked(tmp_path: Path) -> None:
    for digest in ("", "md5:" + "0" * 32, "sha256:12", "sha256:" + "G" * 64):
        with pytest.raises(ValueError, match="only sha256 and sha512"):
            Downloads("image", [Layer(0, str(tmp_path), digest, "u", Scripted())], at_once())
    hasher = Hasher("sha512:" + hashlib.sha512(DATA).hexdigest())
    hasher.update(DATA)
    assert hasher.right


@pytest.mark.parametrize(
    "record",
    [b"", b"junk", b"\xff" * 600, f"{DIGEST} {len(DATA)} 4096 00000000\n".encode()],
)
def test_a_record_that_makes_no_sense_is_none(tmp_path: Path, record: bytes) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / ".download").write_bytes(bytes(len(DATA)))
    (tmp_path / "0" / ".download.progress").write_bytes(record)
    blob = Scripted()
    assert states(run(tmp_path, blob)) == ["done"]
    assert sum(count for _, count in blob.reads) == len(DATA)


@pytest.mark.parametrize("change", ["digest", "size", "cut"])
def test_a_record_counts_for_its_own_bytes_only(tmp_path: Path, change: str) -> None:
    partial = Partial.lock(str(tmp_path))
    assert partial is not None
    assert partial.prepare(DIGEST, 10_000) == 0
    partial.record(DIGEST, 10_000, 8192)
    assert partial.prepare(DIGEST, 10_000) == 8192
    if change == "cut":
        os.truncate(partial.path, 8191)
        assert partial.prepare(DIGEST, 10_000) == 0
    else:
        digest, size = ("sha256:" + "0" * 64, 10_000) if change == "digest" else (DIGEST, 10_001)
        assert partial.prepare(digest, size) == 0
    assert os.path.getsize(partial.path) in (10_000, 10_001)
    partial.release()


@pytest.mark.parametrize("evicted", [[], [(4096, 8192), (16384, 1)]])
def test_a_pull_into_the_cache_is_complete_or_says_so(evicted: list[tuple[int, int]]) -> None:
    blobs = [Scripted(), Scripted([Refused("io"), Refused("io")])]
    blobs[1].evicted = evicted
    work = Pull([Layer(at, "", DIGEST, f"https://r/{at}", blob) for at, blob in enumerate(blobs)], 3)
    seen: list[tuple[int, int]] = []
    assert work.run(lambda done, total: seen.append((done, total))) == (not evicted)
    assert [each.state for each in work.outcomes] == ["done", "failed" if evicted else "done"]
    assert all(sum(length for _, length in blob.filled) >= len(DATA) for blob in blobs)
    assert seen[-1] == (2 * len(DATA), 2 * len(DATA))
    if evicted:
        assert "8193 bytes were evicted" in work.outcomes[1].error


def test_a_pull_that_is_interrupted_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    blob = Scripted([Refused("io")] * 1000)
    with pytest.raises(KeyboardInterrupt):
        Pull([Layer(0, "", DIGEST, "u", blob)], 2).run(interrupt)


def test_one_at_a_time(tmp_path: Path) -> None:
    first = Partial.lock(str(tmp_path))
    assert first is not None and Partial.lock(str(tmp_path)) is None
    first.release()
    second = Partial.lock(str(tmp_path))
    assert second is not None
    second.release()
    assert os.listdir(tmp_path) == []


def test_steps_grow_on_a_quick_line_and_shrink_on_a_slow_one() -> None:
    steps = Steps(262144)
    for _ in range(20):
        steps.took(steps.bytes, 0.01)
    assert steps.bytes == MAX_STEP_BYTES
    for _ in range(20):
        steps.took(steps.bytes, 10)
    assert steps.bytes == 262144
    slow = Steps(262144, bytes_per_s=1 << 20)
    for _ in range(20):
        slow.took(slow.bytes, 0.01)
    assert slow.bytes == 262144, "a step is no more than a quarter of a second of a limited rate"
    assert all(Steps(first).bytes % 4096 == 0 and Steps(first).bytes > 0 for first in (0, 1, 1000, 1 << 32))
