"""Who may read what a process makes: caches, sockets and state are their owner's alone."""

import stat
from pathlib import Path

import pytest

from obd import caches
from obd.config import CacheConfig
from obd.result import ResultFile
from obd.sockets import control_directory, listen_at
from obd.state import State, StateDirectory

pytestmark = pytest.mark.usefixtures("run_directory")


def mode(path: Path | str) -> int:
    return stat.S_IMODE(Path(path).lstat().st_mode)


def test_a_cache_is_its_owners(tmp_path: Path) -> None:
    caches.chunk_cache(CacheConfig(dir=str(tmp_path / "cache")))
    assert mode(tmp_path / "cache") == 0o700


def test_sockets_and_state_are_their_owners(tmp_path: Path) -> None:
    directory = control_directory(create=True)
    listener = listen_at(f"{directory}/1.sock")
    assert (mode(directory), mode(f"{directory}/1.sock")) == (0o700, 0o600)
    listener.close()
    place = StateDirectory("mounts", "/mnt")
    assert place.acquire()
    place.write(State(config="c", via="fuse", read_only=True))
    assert (mode(place.path), mode(f"{place.path}/lock")) == (0o700, 0o600)
    place.release()


def test_a_result_is_for_those_who_asked_and_is_no_link(tmp_path: Path) -> None:
    ResultFile(str(tmp_path / "result")).failed("a\x1b[2J\nb")
    assert mode(tmp_path / "result") == 0o644
    assert (tmp_path / "result").read_text() == "failed:a\\x1b[2J b"
