"""A download's files in a layer's directory: one writer, a record that holds, names that appear in order."""

import errno
import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.partial import Partial, sync_directory
from tests.unit.descriptors import opened

DIGEST = "sha256:" + "12" * 32


@pytest.fixture
def partial(tmp_path: Path) -> Iterator[Partial]:
    found = Partial.lock(str(tmp_path))
    assert found is not None
    yield found
    found.release()


# ---- who may


def test_the_lock_holds_across_processes_and_goes_with_its_file(tmp_path: Path) -> None:
    before = opened(tmp_path)
    partial = Partial.lock(str(tmp_path))
    assert partial is not None and (tmp_path / ".download.lock").stat().st_mode & 0o777 == 0o644
    script = "import sys; from cache.partial import Partial; print(Partial.lock(sys.argv[1]))"
    run = [sys.executable, "-c", script, str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run(run, capture_output=True, check=True, cwd=root).stdout == b"None\n"
    partial.release()
    partial.release()
    assert os.listdir(tmp_path) == [] and opened(tmp_path) == before


def test_a_lock_file_that_was_just_removed_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner has ended between our opening and our locking it: the next comer would make another."""
    real, before, calls = fcntl.flock, opened(tmp_path), 0

    def late(fd: int, operation: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            (tmp_path / ".download.lock").unlink()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    partial = Partial.lock(str(tmp_path))
    assert partial is not None and calls == 2 and (tmp_path / ".download.lock").exists()
    assert Partial.lock(str(tmp_path)) is None
    partial.release()
    assert opened(tmp_path) == before


def test_a_lock_that_cannot_be_had_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    before = opened(tmp_path)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No locks"):
        Partial.lock(str(tmp_path))
    assert opened(tmp_path) == before
    with pytest.raises(FileNotFoundError):
        Partial.lock(str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("theirs", "shared", "free"), [("r", True, True), ("r", False, False), ("w", True, False)]
)
def test_the_file_is_kept_from_others(
    tmp_path: Path, partial: Partial, theirs: str, shared: bool, free: bool
) -> None:
    """As caches lock the files they fill: readers together, a writer alone, all of the file."""
    (tmp_path / ".download").write_bytes(b"x" * 10)
    with (tmp_path / ".download").open("r+b") as other:
        kind = fcntl.F_RDLCK if theirs == "r" else fcntl.F_WRLCK
        fcntl.fcntl(other, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, 5, 1, 0))
        assert partial.claim(shared=shared) == free
    partial.release()
    again = Partial.lock(str(tmp_path))
    assert again is not None and again.claim(shared=False), "who held it is gone"
    with (tmp_path / ".download").open("r+b") as other:
        locks = [struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, at, 1, 0) for at in (0, 1 << 40)]
        for lock in locks:
            with pytest.raises(BlockingIOError):
                fcntl.fcntl(other, fcntl.F_OFD_SETLK, lock)
        again.release()
        for lock in locks:
            fcntl.fcntl(other, fcntl.F_OFD_SETLK, lock)


def test_a_claim_of_a_new_file_makes_it_and_a_broken_one_is_an_error(
    tmp_path: Path, partial: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert partial.claim(shared=False)
    assert (tmp_path / ".download").stat().st_mode & 0o777 == 0o644

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(OSError, match="No locks"):
        partial.claim(shared=True)


# ---- how far it is


def test_what_was_recorded_is_there_when_the_next_one_comes(tmp_path: Path, partial: Partial) -> None:
    assert partial.prepare(DIGEST, 10_000_000) == 0
    assert (tmp_path / ".download").stat().st_size == 10_000_000
    assert (tmp_path / ".download").stat().st_mode & 0o777 == 0o644
    for done in (10_000_000, 4096, 0, 9_999_999):
        partial.record(DIGEST, 10_000_000, done)
        assert partial.prepare(DIGEST, 10_000_000) == done, "longer lines and shorter ones"
    assert (tmp_path / ".download.progress").stat().st_mode & 0o777 == 0o644
    words = (tmp_path / ".download.progress").read_text().split()
    assert words[:3] == [DIGEST, "10000000", "9999999"] and len(words) == 4


def test_bytes_that_count_stay_and_others_do_not(tmp_path: Path, partial: Partial) -> None:
    partial.prepare(DIGEST, 10_000)
    (tmp_path / ".download").write_bytes(b"x" * 10_000)
    partial.record(DIGEST, 10_000, 8192)
    assert partial.prepare(DIGEST, 10_000) == 8192
    assert (tmp_path / ".download").read_bytes() == b"x" * 10_000
    os.truncate(tmp_path / ".download", 8192)
    assert partial.prepare(DIGEST, 10_000) == 8192
    assert (tmp_path / ".download").read_bytes() == b"x" * 8192 + bytes(10_000 - 8192)
    assert partial.prepare("sha256:" + "34" * 32, 20_000) == 0
    assert (tmp_path / ".download").read_bytes() == bytes(20_000)
    assert not (tmp_path / ".download.progress").exists()


@pytest.mark.parametrize("done", [-1, 10_001])
def test_a_record_of_what_cannot_be_is_none(partial: Partial, done: int) -> None:
    partial.prepare(DIGEST, 10_000)
    partial.record(DIGEST, 10_000, done)
    os.truncate(partial.path, 20_000)
    assert partial.prepare(DIGEST, 10_000) == 0
    assert os.path.getsize(partial.path) == 10_000


# ---- how it ends


def test_the_layer_is_durable_before_it_has_its_name(
    tmp_path: Path, partial: Partial, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial.prepare(DIGEST, 5)
    (tmp_path / ".download").write_bytes(b"layer")
    partial.record(DIGEST, 5, 5)
    (tmp_path / ".download.map").write_bytes(b"map")
    steps: list[str] = []
    real_sync, real_rename = os.fsync, os.rename

    def sync(fd: int) -> None:
        steps.append(f"sync {os.readlink(f'/proc/self/fd/{fd}')}")
        real_sync(fd)

    def rename(source: str, target: str) -> None:
        steps.append(f"rename {source} {target}")
        real_rename(source, target)

    before = opened(tmp_path)
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    partial.finish()
    done, commit = tmp_path / ".download", tmp_path / "overlaybd.commit"
    assert steps == [f"sync {done}", f"rename {done} {commit}", f"sync {tmp_path}"]
    assert commit.read_bytes() == b"layer" and opened(tmp_path) == before
    partial.release()
    assert os.listdir(tmp_path) == ["overlaybd.commit"]


def test_what_is_discarded_leaves_nothing(tmp_path: Path, partial: Partial) -> None:
    partial.prepare(DIGEST, 5)
    partial.record(DIGEST, 5, 5)
    partial.discard()
    assert os.listdir(tmp_path) == [".download.lock"]
    partial.discard()


@pytest.mark.parametrize("placed", [True, False])
def test_what_a_killed_process_left_goes_once_the_layer_is_in_place(tmp_path: Path, placed: bool) -> None:
    left = {".download.progress", ".download.map"}
    for name in left | ({"overlaybd.commit"} if placed else set()):
        (tmp_path / name).touch()
    busy = Partial.lock(str(tmp_path))
    assert busy is not None
    Partial.tidy(str(tmp_path))
    assert left < set(os.listdir(tmp_path)), "whoever is at it tidies up"
    busy.release()
    before = opened(tmp_path)
    Partial.tidy(str(tmp_path))
    assert set(os.listdir(tmp_path)) == ({"overlaybd.commit"} if placed else left)
    Partial.tidy(str(tmp_path / "absent"))
    assert opened(tmp_path) == before


def test_only_a_directory_is_synced_as_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = opened(tmp_path)
    with pytest.raises(NotADirectoryError):
        sync_directory(str(tmp_path / "file"))
    sync_directory(str(tmp_path))
    assert opened(tmp_path) == before
