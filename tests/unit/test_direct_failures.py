"""Direct writes that fail: which bytes of which file, that it is remembered, and that nothing stays open."""

import errno
import logging
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import aio, direct
from cache.direct import DirectFile, Slot
from tests.unit.descriptors import opened

SLOT_BYTES = 64 << 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "file"
    found.touch()
    return found


@pytest.fixture
def file(path: Path) -> Iterator[DirectFile]:
    found = DirectFile(str(path), slots=2, slot_bytes=SLOT_BYTES)
    yield found
    found.close()


def filled(file: DirectFile, byte: int) -> Slot:
    slot = file.take()
    slot.view[:] = bytes([byte]) * SLOT_BYTES
    return slot


class Refusing(aio.Queue):
    """A queue that refuses requests, or has them fail."""

    refuses, fails = 0, 0

    def write(self, fd: int, address: int, length: int, offset: int, token: int) -> None:
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        super().write(fd, address, length, offset, token)

    def wait(self) -> list[tuple[int, int]]:
        return [(token, -self.fails if self.fails else done) for token, done in super().wait()]


@pytest.mark.parametrize("way", ["refuses", "fails"])
def test_a_write_that_fails_names_its_bytes_and_is_remembered(
    path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "Queue", Refusing)
    file = DirectFile(str(path), slots=2, slot_bytes=SLOT_BYTES)
    if not file.direct:
        pytest.skip("this file system has no direct writes")
    monkeypatch.setattr(Refusing, way, errno.ENOSPC)
    with pytest.raises(OSError) as caught:
        file.write(filled(file, 1), 8192 + 5, 4096)
        file.drain()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert caught.value.strerror == "write 8192 bytes at 4096: No space left on device"
    assert (file.failed, file.direct) == (True, True)
    # Its memory can be used again.
    monkeypatch.setattr(Refusing, way, 0)
    file.write(filled(file, 2), 4096, 0)
    file.write(filled(file, 3), 4096, 4096)
    file.sync()
    file.close()
    assert path.read_bytes()[:8192] == b"\2" * 4096 + b"\3" * 4096


def test_a_refusal_by_errno_22_is_a_file_system_without_direct_writes(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(direct, "Queue", Refusing)
    file = DirectFile(str(path), slots=2, slot_bytes=SLOT_BYTES)
    monkeypatch.setattr(Refusing, "refuses", errno.EINVAL)
    with caplog.at_level(logging.INFO, "overlaybd.download"):
        for number in range(5):
            file.write(filled(file, number), SLOT_BYTES, number * SLOT_BYTES)
    assert not file.direct and not file.failed
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: written through the page cache: no direct writes here: Invalid argument"
    ]
    file.close()
    assert path.read_bytes() == b"".join(bytes([number]) * SLOT_BYTES for number in range(5))


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "posix_fadvise"])
def test_a_call_that_fails_is_the_files_failure(
    path: Path, file: DirectFile, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    file.write(filled(file, 1), 4096, 0)
    file.sync()
    before = file.failed
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError) as caught:
        file.write(filled(file, 1), 100, 4096)
        file.sync()
    what = "write 100 bytes at 4096" if call == "pwrite" else "sync"
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))
    assert caught.value.strerror == f"{what}: Input/output error"
    assert (before, file.failed) == (False, True)


def test_slots_are_few_and_come_back(path: Path, file: DirectFile) -> None:
    first, second = file.take(), file.take()
    assert first is not second and first.address % mmap.PAGESIZE == 0
    assert (len(first.view), first.index) != (0, second.index)
    file.give(first)
    assert file.take() is first
    file.write(first, 4096, 0)
    file.write(second, 4095, 4096)
    assert {id(file.take()), id(file.take())} == {id(first), id(second)}, "taking waits for writes to end"
    file.drain()
    assert path.stat().st_size == 8191


def test_an_end_or_a_place_within_a_block_leaves_the_length_alone(path: Path, file: DirectFile) -> None:
    file.write(filled(file, 1), 5000, 0)
    file.drain()
    assert path.read_bytes() == b"\1" * 5000
    file.write(filled(file, 2), 8192, 100)
    file.drain()
    assert path.read_bytes() == b"\1" * 100 + b"\2" * 8192


def test_nothing_stays_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = opened(path)
    file = DirectFile(str(path), slots=2, slot_bytes=SLOT_BYTES)
    file.write(filled(file, 7), 4096, 0)
    file.close()
    file.close()
    assert opened(path) == before and path.read_bytes() == b"\7" * 4096

    def none(*_: object) -> mmap.mmap:
        raise MemoryError

    monkeypatch.setattr(mmap, "mmap", none)
    with pytest.raises(MemoryError):
        DirectFile(str(path), slots=2, slot_bytes=SLOT_BYTES)
    assert opened(path) == before
    with pytest.raises(FileNotFoundError):
        DirectFile(str(path) + ".absent", slots=2, slot_bytes=SLOT_BYTES)
