"""Direct writes: every byte in its place whatever the lengths, on every file system, with clear failures."""

import ctypes
import errno
import mmap
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import aio
from cache.direct import DirectFile

SLOT_BYTES = 64 << 10


def fill(path: Path, data: bytes, *, step: int = SLOT_BYTES) -> bool:
    """Writes a file of that length step by step; whether it was written directly."""
    path.touch()
    os.truncate(path, len(data))
    file = DirectFile(str(path), slots=3, slot_bytes=SLOT_BYTES)
    try:
        for at in range(0, len(data), step):
            slot, piece = file.take(), data[at : at + step]
            slot.view[: len(piece)] = piece
            file.write(slot, len(piece), at)
        file.sync()
        return file.direct
    finally:
        file.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB in memory."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)


@pytest.mark.parametrize("length", [0, 1, 511, 4095, 4096, 4097, SLOT_BYTES, SLOT_BYTES + 1, 1_000_003])
@pytest.mark.parametrize("step", [SLOT_BYTES, 10_000, 4096])
def test_every_length_and_step(tmp_path: Path, length: int, step: int) -> None:
    data = random.Random(length).randbytes(length)
    fill(tmp_path / "file", data, step=step)
    assert (tmp_path / "file").read_bytes() == data


def test_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    data = random.Random(1).randbytes(1_000_003)
    with caplog.at_level("INFO"):
        assert not fill(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == data
    assert len(caplog.records) == 1 and "libaio.so.1" in caplog.text


def test_where_the_file_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At opening, as tmpfs used to, or only at the first write."""
    data = random.Random(2).randbytes(1_000_003)
    real_open = os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert not fill(tmp_path / "a", data)
    assert (tmp_path / "a").read_bytes() == data
    real_wait = aio.Queue.wait

    def late(queue: aio.Queue) -> list[tuple[int, int]]:
        return [(token, -errno.EINVAL) for token, _ in real_wait(queue)]

    monkeypatch.setattr(aio.Queue, "wait", late)
    assert not fill(tmp_path / "b", data)
    assert (tmp_path / "b").read_bytes() == data


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = aio.Queue.write

    def short(queue: aio.Queue, fd: int, address: int, length: int, offset: int, token: int) -> None:
        real_write(queue, fd, address, min(length, 8192), offset, token)

    monkeypatch.setattr(aio.Queue, "write", short)
    data = random.Random(3).randbytes(1_000_003)
    fill(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == data


def test_a_full_disk_says_which_file_and_where(small_disk: Path) -> None:
    path = small_disk / "file"
    with pytest.raises(OSError) as caught:
        fill(path, bytes(8 << 20))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert "at 4" in str(caught.value) or "at 3" in str(caught.value), (
        "the offset is near the end of the disk"
    )


def resident_bytes(path: Path) -> int:
    """What of a file the page cache holds."""
    size = path.stat().st_size
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as memory:
        anchor = ctypes.c_char.from_buffer(memory)
        pages = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
        address = ctypes.c_void_p(ctypes.addressof(anchor))
        assert libc.mincore(address, ctypes.c_size_t(size), pages) == 0
        del anchor
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


def test_the_page_cache_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 16 << 20
    usual = tmp_path / "usual"
    usual.write_bytes(bytes(size))
    if resident_bytes(usual) < size // 2:
        pytest.skip("this file system keeps nothing in the page cache")
    if not fill(tmp_path / "direct", random.Random(5).randbytes(size)):
        pytest.skip("this file system has no direct writes")
    assert resident_bytes(tmp_path / "direct") <= size // 16
