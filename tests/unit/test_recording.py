"""A recording's files: who may take the lock away, what is saved on the way, what is said when it fails."""

import errno
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

import obdcore
from cache import trace
from cache.trace import Recording, write_file
from tests.unit.descriptors import opened


class Image:
    """The core's part: what it has recorded so far."""

    def __init__(self) -> None:
        self.data, self.truncated, self.calls = b"", False, list[str]()
        self.asked = threading.Semaphore(0)

    def start_recording(self) -> None:
        self.calls.append("start")

    def recorded(self) -> tuple[bytes, bool]:
        self.asked.release()
        return self.data, self.truncated

    def give(self, data: bytes) -> None:
        """Has `data` recorded; returns when that has been asked for, and once more since."""
        self.data = data
        while self.asked.acquire(blocking=False):
            pass
        for _ in range(2):
            assert self.asked.acquire(timeout=60)

    def stop_recording(self) -> bytes:
        self.calls.append("stop")
        return self.data


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(trace, "POLL_S", 0.002)
    monkeypatch.setattr(trace, "SAVE_S", 0.005)
    caplog.set_level(logging.INFO, "overlaybd.trace")


def record(path: Path, image: Image) -> Recording:
    path.touch()
    return Recording(cast(obdcore.Image, image), str(path))


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    assert {each.name for each in caplog.records} <= {"overlaybd.trace"}
    return [(each.levelname, each.getMessage()) for each in caplog.records]


def failing(name: str, number: int, monkeypatch: pytest.MonkeyPatch, when: Callable[..., bool]) -> None:
    """A call to the system that fails where `when` says so."""
    real = getattr(os, name)

    def call(*args: Any, **options: Any) -> Any:
        if when(*args):
            raise OSError(number, os.strerror(number))
        return real(*args, **options)

    monkeypatch.setattr(os, name, call)


def test_any_client_may_end_it_and_all_of_it_is_there_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image, path, before = Image(), tmp_path / "trace", os.umask(0)
    try:
        recording = record(path, image)
        lock = tmp_path / "trace.lock"
        assert lock.stat().st_mode & 0o777 == 0o666 and image.calls == ["start"]
        image.data = b"all"
        lock.unlink()
        recording._thread.join(60)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"all" and image.calls == ["start", "stop"]
    assert (tmp_path / "trace.ok").stat().st_mode & 0o777 == 0o666
    assert sorted(os.listdir(tmp_path)) == ["trace", "trace.ok"]
    assert said(caplog) == [("INFO", f"{path}: trace of 3 bytes recorded")]
    recording.stop()


def test_what_is_new_is_saved_and_what_is_not_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[str, bytes, str]] = []
    real = trace.write_file

    def write(path: str, data: bytes, *, like: str = "") -> None:
        saved.append((path, data, like))
        real(path, data, like=like)

    monkeypatch.setattr(trace, "write_file", write)
    image, path = Image(), tmp_path / "trace"
    recording = record(path, image)
    for data in (b"", b"1234", b"1234", b"12345678"):
        image.give(data)
    recording.stop()
    partial = f"{path}.partial"
    assert saved == [
        (partial, b"1234", str(path)),
        (partial, b"12345678", str(path)),
        (str(path), b"12345678", str(path)),
    ]


def test_a_trace_that_is_full_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image, path = Image(), tmp_path / "trace"
    image.truncated, image.data = True, b"much"
    record(path, image).stop()
    assert path.read_bytes() == b"much"
    assert said(caplog)[0] == ("WARNING", f"{path}: the trace is full: later reads are not in it")


def test_a_side_file_that_cannot_be_written_is_told_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image, path = Image(), tmp_path / "trace"
    failing("rename", errno.ENOSPC, monkeypatch, lambda source, target: target.endswith(".partial"))
    recording = record(path, image)
    image.give(b"some")
    recording.stop()
    assert path.read_bytes() == b"some" and sorted(os.listdir(tmp_path)) == ["trace", "trace.ok"]
    why = f"{path}.partial: what is recorded so far cannot be kept: No space left on device"
    assert said(caplog)[0] == ("WARNING", why)


def test_without_a_trace_there_is_no_ok(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image, path = Image(), tmp_path / "trace"
    failing("rename", errno.EROFS, monkeypatch, lambda source, target: target == str(path))
    record(path, image).stop()
    assert os.listdir(tmp_path) == ["trace"] and path.stat().st_size == 0
    assert said(caplog) == [("ERROR", f"{path}: the trace cannot be written: Read-only file system")]


def test_a_recording_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    image = Image()

    def busy() -> None:
        raise OSError(errno.EBUSY, "busy")

    image.start_recording = busy  # type: ignore[method-assign]
    with pytest.raises(OSError, match="busy"):
        record(tmp_path / "trace", image)
    assert os.listdir(tmp_path) == ["trace"]


def test_what_cannot_be_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing("unlink", errno.EACCES, monkeypatch, lambda path: path.endswith(".lock"))
    record(tmp_path / "trace", Image()).stop()
    assert ("WARNING", f"{tmp_path}/trace.lock: cannot be removed: Permission denied") in said(caplog)


# ---- files that are replaced as a whole


def test_a_file_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real_sync, real_rename = os.fsync, os.rename

    def sync(fd: int) -> None:
        place = Path(f"/proc/self/fd/{fd}")
        steps.append(f"sync {os.readlink(place)} {place.read_bytes().decode() if place.is_file() else ''}")
        real_sync(fd)

    def rename(source: str, target: str) -> None:
        steps.append(f"rename {source} {target}")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    path, before = tmp_path / "file", opened(tmp_path)
    write_file(str(path), b"words")
    draft = f"{path}.{os.getpid()}.new"
    assert steps == [f"sync {draft} words", f"rename {draft} {path}", f"sync {tmp_path} "]
    assert opened(tmp_path) == before
    monkeypatch.chdir(tmp_path)
    write_file("file", b"other")
    assert path.read_bytes() == b"other" and os.listdir(tmp_path) == ["file"]


def test_what_an_earlier_draft_left_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / f"file.{os.getpid()}.new").write_bytes(b"left by a crash")
    write_file(str(tmp_path / "file"), b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o4755])
def test_it_looks_like_the_file_it_replaces(tmp_path: Path, mode: int) -> None:
    model, path, owner = tmp_path / "model", tmp_path / "file", 12345 if os.geteuid() == 0 else os.geteuid()
    model.touch()
    os.chown(model, owner, -1)
    model.chmod(mode)
    write_file(str(path), b"x", like=str(model))
    assert path.stat().st_mode & 0o7777 == mode & 0o777 and path.stat().st_uid == owner
    before = os.umask(0)
    write_file(str(tmp_path / "plain"), b"x", like=str(tmp_path / "absent"))
    os.umask(before)
    assert (tmp_path / "plain").stat().st_mode & 0o7777 == 0o644
