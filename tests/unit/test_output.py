"""Output files: whole under their final name or not there, whatever happens on the way."""

import errno
import os
import signal
import stat
from pathlib import Path

import pytest

from tools.errors import Failure, Stopped
from tools.output import Output


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_appears_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with Output(str(target)) as out:
        os.write(out.fd, b"half")
        assert not target.exists()
        os.write(out.fd, b" and half")
    assert target.read_bytes() == b"half and half"
    assert names(tmp_path) == ["out"]


def test_all_is_written_however_little_the_disk_takes_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, write = tmp_path / "out", os.write
    with monkeypatch.context() as patch, Output(str(target)) as out:
        patch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:3])))
        out.write(b"eleven byte")
    assert target.read_bytes() == b"eleven byte"


def test_errors_of_writing_and_syncing_name_what_they_are_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target, fsync = tmp_path / "out", os.fsync
    for call, of_directory in (("write", False), ("fsync", False), ("fsync", True)):
        refuses = (
            (lambda fd: fsync(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else full()) if of_directory else full
        )
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuses)
            with pytest.raises(OSError, match="No space left") as caught, Output(str(target)) as out:
                out.write(b"some")
        assert caught.value.filename == str(tmp_path if of_directory else target)
        # When the names are to be made durable the file is there, and whole.
        assert names(tmp_path) == (["out"] if of_directory else [])


def test_mode_and_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with Output(str(tmp_path / "a")), Output(str(tmp_path / "b"), mode=0o700):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), SystemExit(1)])
def test_nothing_is_left_after_an_error(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), Output(str(tmp_path / "out")):
        raise error
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_after_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with pytest.raises(Stopped) as caught, Output(str(tmp_path / "out")):
        signal.raise_signal(number)
    assert caught.value.signal_number == number
    assert names(tmp_path) == []
    assert signal.getsignal(number) == signal.SIG_DFL


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Output(str(tmp_path / "out")):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert names(tmp_path) == ["out"]


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with pytest.raises(Failure, match=f"failed to open file '{target}', 17: exists"), Output(str(target)):
        pass
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(FileExistsError), Output(str(target)) as out:
        os.write(out.fd, b"new")
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs"
    assert names(tmp_path) == ["out"]


def test_replace_is_atomic_and_keeps_the_old_one_on_errors(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), Output(str(target), replace=True):
        raise RuntimeError
    assert target.read_bytes() == b"old"
    with Output(str(target), replace=True) as out:
        os.write(out.fd, b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo", "input"])
def test_what_is_never_replaced(tmp_path: Path, kind: str) -> None:
    target, other = tmp_path / "out", tmp_path / "other"
    other.write_bytes(b"other")
    if kind == "symlink":
        target.symlink_to(other)
    elif kind == "directory":
        target.mkdir()
    elif kind == "fifo":
        os.mkfifo(target)
    else:
        os.link(other, target)
    before = os.lstat(target).st_ino
    with pytest.raises(Failure, match="22: is"), Output(str(target), replace=True, inputs=[str(other)]):
        pass
    assert os.lstat(target).st_ino == before
    assert names(tmp_path) == ["other", "out"]


@pytest.mark.parametrize(
    ("name", "number"), [("", errno.ENOENT), ("nowhere/out", errno.ENOENT), ("file/out", errno.ENOTDIR)]
)
def test_a_place_where_nothing_can_be_made(tmp_path: Path, name: str, number: int) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = str(tmp_path / name) if name else ""
    with pytest.raises(Failure, match=rf"failed to open file '{path}', {number}: "), Output(path):
        pass
    assert names(tmp_path) == ["file"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 127)
    with Output(str(target)):
        pass
    assert names(tmp_path) == [target.name]


def test_a_relative_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Output("out"):
        pass
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
@pytest.mark.parametrize("exists", [False, True])
def test_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, exists: bool
) -> None:
    """File systems without hard links, such as vfat, take the other way to publish without replacing."""

    def link(source: str, target: str) -> None:
        raise OSError(number, os.strerror(number), source)

    monkeypatch.setattr("os.link", link)
    target = tmp_path / "out"
    if exists:
        with pytest.raises(OSError, match="File exists"), Output(str(target)):
            target.write_bytes(b"theirs")
        assert target.read_bytes() == b"theirs"
    else:
        with Output(str(target)) as out:
            os.write(out.fd, b"whole")
        assert target.read_bytes() == b"whole"
    assert names(tmp_path) == ["out"]
