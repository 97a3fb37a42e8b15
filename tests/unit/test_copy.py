"""One layer's way into its directory: what counts as there, what room it needs, what is kept of a failure."""

import errno
import hashlib
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache.copy import SPARE_BYTES, Copy, Layer, WrongDigest
from cache.direct import Slot
from cache.partial import Partial
from cache.verify import Hasher
from tests.unit.descriptors import opened

DATA = random.Random(11).randbytes(300_001)
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
STEP = 65536


class Stop(Exception):
    """Somebody has had enough."""


class Blob:
    """A blob that is only asked what it is."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data, self.size = data, len(DATA)
        self.distrusted: list[tuple[int, int]] = []
        self.absent: list[tuple[int, int]] = []

    def missing(self, offset: int, length: int, /) -> list[tuple[int, int]]:
        assert (offset, length) == (0, self.size)
        return self.absent

    def distrust(self, offset: int, length: int, /) -> None:
        self.distrusted.append((offset, length))


class Work:
    """A copy of `DATA` to a directory, and what it has asked for."""

    def __init__(self, directory: Path, data: bytes = DATA, *, is_media: bool = False) -> None:
        self.blob, self.starts, self.steps = Blob(data), list[int](), 0
        self.on_step: Callable[[], object] = lambda: None
        layer = Layer(0, str(directory), DIGEST, "https://r/b", self.blob, is_media)  # type: ignore[arg-type]
        self.copy = Copy(layer, self._pieces, self._fills, slots=2, slot_bytes=STEP)

    def _pieces(self, start: int, take: Callable[[], Slot]) -> Iterator[tuple[Slot, int, int]]:
        self.starts.append(start)
        for at in range(start, len(DATA), STEP):
            slot, count = take(), min(STEP, len(DATA) - at)
            slot.view[:count] = self.blob.data[at : at + count]
            yield slot, count, at

    def _fills(self) -> Iterator[int]:
        yield from (100, len(DATA))

    def _proceed(self) -> None:
        self.steps += 1
        self.on_step()

    def run(self) -> bool:
        return self.copy.run(self._proceed)


def stop_at(work: Work, step: int) -> None:
    def act() -> None:
        if work.steps == step:
            raise Stop

    work.on_step = act


def test_what_is_in_place_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "overlaybd.commit").write_bytes(DATA)
    work, before = Work(tmp_path), opened(tmp_path)
    assert work.run() and work.starts == [] and work.copy.done == len(DATA)
    assert work.steps == 1 and opened(tmp_path) == before
    assert os.listdir(tmp_path) == ["overlaybd.commit"]


@pytest.mark.parametrize("wrong", [DATA[:-1], DATA + b"x", DATA[:-1] + b"x", b""])
def test_what_bears_the_name_and_is_not_the_layer_is_put_aside(
    tmp_path: Path, wrong: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "overlaybd.commit").write_bytes(wrong)
    work, before = Work(tmp_path), opened(tmp_path)
    assert work.run() and opened(tmp_path) == before
    assert (tmp_path / "overlaybd.commit").read_bytes() == DATA
    assert (tmp_path / "overlaybd.commit.bad").read_bytes() == wrong
    said = f"{tmp_path}/overlaybd.commit is not {DIGEST}: renamed to overlaybd.commit.bad"
    assert [(each.name, each.getMessage()) for each in caplog.records] == [("overlaybd.download", said)]


def test_the_memory_that_was_given_is_all_that_is_used(tmp_path: Path) -> None:
    work = Work(tmp_path)
    assert work.copy.done == 0 and work.run() and work.starts == [0]
    assert work.copy.done == len(DATA) and work.blob.distrusted == []
    # A step each, and none for what was not there before.
    assert work.steps == -(-len(DATA) // STEP)


@pytest.mark.parametrize("lock", ["directory", "file"])
def test_nothing_is_done_where_another_is_at_it(tmp_path: Path, lock: str) -> None:
    other = Partial.lock(str(tmp_path))
    assert other is not None and other.claim(shared=False)
    if lock == "file":
        os.unlink(tmp_path / ".download.lock")
    work = Work(tmp_path)
    assert not work.run() and work.starts == [] and (tmp_path / ".download").stat().st_size == 0
    other.release()
    assert work.run()


@pytest.mark.parametrize("is_media", [False, True])
@pytest.mark.parametrize("spare", [0, -1])
def test_so_much_room_must_be_left(
    tmp_path: Path, spare: int, is_media: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(tmp_path, is_media=is_media)
    (tmp_path / ".download").write_bytes(DATA if is_media else b"")
    needed = len(DATA)
    if is_media:
        work.blob.absent, needed = [(0, 5), (10, 12)], 17
    assert SPARE_BYTES == 64 << 20

    class Room:
        f_frsize = 1
        f_bavail = needed + SPARE_BYTES + spare
        f_bsize, f_bfree = 4096, 1 << 40

    monkeypatch.setattr(os, "statvfs", lambda path: Room() if path == str(tmp_path) else None)
    if spare == 0:
        assert work.run()
        return
    with pytest.raises(OSError) as caught:
        work.run()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    says = f"{needed} bytes to come, {SPARE_BYTES} to be left, and only {Room.f_bavail} free"
    assert caught.value.strerror == says


def test_what_has_come_is_kept_and_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(tmp_path)
    stop_at(work, 3)
    with pytest.raises(Stop):
        work.run()
    assert work.copy.done == 3 * STEP
    words = (tmp_path / ".download.progress").read_text().split()
    assert words[:3] == [DIGEST, str(len(DATA)), str(3 * STEP)]
    free = SPARE_BYTES + len(DATA) - 3 * STEP
    monkeypatch.setattr(os, "statvfs", lambda path: type("Room", (), {"f_frsize": 1, "f_bavail": free}))
    again = Work(tmp_path)
    assert again.run() and again.starts == [3 * STEP] and again.copy.done == len(DATA)
    assert again.steps == 1 + 2, "what was there is read, and may be interrupted, too"
    assert (tmp_path / "overlaybd.commit").read_bytes() == DATA


@pytest.mark.parametrize(("recorded", "start"), [(8191, 4096), (8192, 8192), (300_001, 300_001)])
def test_it_goes_on_at_a_whole_block_or_is_complete(tmp_path: Path, recorded: int, start: int) -> None:
    partial = Partial.lock(str(tmp_path))
    assert partial is not None
    partial.prepare(DIGEST, len(DATA))
    (tmp_path / ".download").write_bytes(DATA[:recorded].ljust(len(DATA), b"\0"))
    partial.record(DIGEST, len(DATA), recorded)
    partial.release()
    work = Work(tmp_path)
    assert work.run() and work.starts == [start]
    assert (tmp_path / "overlaybd.commit").read_bytes() == DATA


def test_each_second_what_has_come_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, syncs, records = 50.0, list[float](), list[int]()
    work = Work(tmp_path)
    real_sync, real_record = os.fdatasync, Partial.record

    def sync(fd: int) -> None:
        syncs.append(now)
        real_sync(fd)

    def record(partial: Partial, digest: str, size: int, done: int) -> None:
        assert syncs[-1] == now, "what is recorded is durable"
        records.append(done)
        real_record(partial, digest, size, done)

    def later() -> None:
        nonlocal now
        now += 0.7

    work.on_step = later
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(Partial, "record", record)
    assert work.run()
    assert records == [3 * STEP, len(DATA)]
    assert syncs == pytest.approx([51.4, 52.8, 53.5])


@pytest.mark.parametrize("is_media", [False, True])
def test_wrong_bytes_leave_nothing(tmp_path: Path, is_media: bool) -> None:
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    work, before = Work(tmp_path, wrong, is_media=is_media), opened(tmp_path)
    (tmp_path / ".download").write_bytes(wrong)
    with pytest.raises(WrongDigest) as caught:
        work.run()
    found = "sha256:" + hashlib.sha256(wrong).hexdigest()
    assert caught.value.strerror == f"https://r/b: the registry's bytes are {found}, not {DIGEST}"
    assert (caught.value.errno, caught.value.kind) == (errno.EIO, "corrupt")
    assert work.blob.distrusted == [(0, len(DATA))] and work.copy.done == 0
    assert os.listdir(tmp_path) == ([".download"] if is_media else []), "the cache keeps its own file"
    assert opened(tmp_path) == before


def test_the_file_that_reads_fill_becomes_the_layer(tmp_path: Path) -> None:
    (tmp_path / ".download").write_bytes(DATA)
    work, seen = Work(tmp_path, is_media=True), list[int]()
    work.on_step = lambda: seen.append(work.copy.done)
    assert work.run() and seen == [100, len(DATA), len(DATA)], "the last is what is read at the end"
    assert (tmp_path / "overlaybd.commit").read_bytes() == DATA and work.starts == []


@pytest.mark.parametrize("is_media", [False, True])
def test_what_cannot_be_made_durable_counts_for_nothing(
    tmp_path: Path, is_media: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    (tmp_path / ".download").write_bytes(DATA)
    monkeypatch.setattr(os, "fsync", fail)
    work = Work(tmp_path, is_media=is_media)
    with pytest.raises(OSError, match="no"):
        work.run()
    assert work.blob.distrusted == ([(0, len(DATA))] if is_media else [])
    assert os.listdir(tmp_path) == ([".download"] if is_media else [])


def test_a_failure_after_which_nothing_can_be_noted_is_told_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Partial, "record", full)
    work = Work(tmp_path)
    stop_at(work, 2)
    with caplog.at_level(logging.DEBUG, "overlaybd.download"), pytest.raises(Stop):
        work.run()
    assert f"{tmp_path}/.download: " in caplog.text
    again = Work(tmp_path)
    assert again.run() and again.starts == [0]


# ---- digests


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_hasher_compares_all_of_a_digest(algorithm: str) -> None:
    digest = f"{algorithm}:{hashlib.new(algorithm, DATA).hexdigest()}"
    hasher = Hasher(digest)
    hasher.update(DATA[:10])
    early = hasher.right
    hasher.update(memoryview(DATA)[10:])
    assert (early, hasher.right) == (False, True) and hasher.found == digest
    for wrong in (digest + "0", digest[:-1], digest.upper(), digest.replace(":", ""), "md5:" + "0" * 32):
        with pytest.raises(ValueError, match="only sha256 and sha512 can be checked"):
            Hasher(wrong)


@pytest.mark.parametrize(("size", "length", "good"), [(10, 10, True), (20, 10, True), (9, 10, False)])
def test_a_hasher_reads_so_much_of_a_file(tmp_path: Path, size: int, length: int, good: bool) -> None:
    (tmp_path / "file").write_bytes(DATA[:size])
    hasher, counts = Hasher("sha256:" + hashlib.sha256(DATA[:length]).hexdigest()), list[int]()
    with (tmp_path / "file").open("rb") as file:
        assert hasher.read(file.fileno(), length, counts.append) == good
    assert hasher.right == good and sum(counts) == min(size, length)


def test_a_hasher_reads_in_pieces_that_leave_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(bytes((2 << 20) + 5))
    left: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *what: left.append(what))
    counts: list[int] = []
    with (tmp_path / "file").open("rb") as file:
        assert Hasher(DIGEST).read(file.fileno(), (2 << 20) + 5, counts.append)
    assert counts == [1 << 20, 1 << 20, 5]
    assert left == [
        (at, count, os.POSIX_FADV_DONTNEED) for at, count in zip((0, 1 << 20, 2 << 20), counts, strict=True)
    ]
