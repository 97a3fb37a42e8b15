"""Files that are put in place as a whole: what is there afterwards, also if it could not be done."""

import errno
import os
import stat
from pathlib import Path

import pytest

from obd.replace import replace_file


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("wanted", [0o600, 0o644])
def test_content_and_mode_are_those_that_were_given(tmp_path: Path, wanted: int) -> None:
    path = tmp_path / "file"
    before = os.umask(0o077)
    try:
        replace_file(str(path), b"one", wanted)
        assert (path.read_bytes(), mode(path)) == (b"one", wanted)
        path.chmod(0o777)
        replace_file(str(path), b"two", wanted)
    finally:
        os.umask(before)
    assert (path.read_bytes(), mode(path)) == (b"two", wanted)
    assert os.listdir(tmp_path) == ["file"]


def test_a_name_without_a_directory_is_one_of_this_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    replace_file("file", b"content", 0o600)
    assert (tmp_path / "file").read_bytes() == b"content"


def test_what_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(str(path), b"after", 0o600)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file"]


def test_a_secret_gets_into_no_file_that_others_have_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    left = tmp_path / "file.new"  # of a process that was killed
    left.write_bytes(b"")
    left.chmod(0o666)
    with left.open("rb") as spy:
        replace_file(str(path), b"secret", 0o600)
        assert spy.read() == b""
    assert (path.read_bytes(), mode(path)) == (b"secret", 0o600)
