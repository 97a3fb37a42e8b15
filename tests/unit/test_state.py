"""The directory in which the facts of a device are, when its removal is disturbed."""

import os
import shutil
from pathlib import Path

import pytest

from obd.state import State, StateDirectory


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDirectory:
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(tmp_path))
    return acquired("attach", "/image/config.json")


def acquired(kind: str, key: str) -> StateDirectory:
    place = StateDirectory(kind, key)
    assert place.acquire()
    place.write(State(key, "fuse", True))
    return place


def left(place: StateDirectory) -> list[Path]:
    return list(Path(place.path).parent.iterdir())


@pytest.mark.parametrize("call", ["os.rmdir", "os.unlink"])
def test_a_removal_that_failed_is_finished_by_the_next_of_that_device(
    place: StateDirectory, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(call, refuse)
        with pytest.raises(OSError, match="Input/output error"):
            place.remove()
    assert StateDirectory("attach", place.key).read() is None, "the device has no facts any more"
    assert len(left(place)) == 1
    place.release()

    other = acquired("attach", "/image/other.json")
    other.remove()
    assert len(left(place)) == 1, "nobody removes what another device has left"

    again = acquired("attach", place.key)
    again.remove()
    assert left(place) == []


def test_two_may_remove_the_same_remnant(place: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds files gone that it has just seen: that is no error of the first device's end."""
    remove_tree = shutil.rmtree

    def together(path: str) -> None:
        remove_tree(path)
        remove_tree(path)

    monkeypatch.setattr(shutil, "rmtree", together)
    place.remove()
    assert left(place) == []


def test_a_directory_whose_lock_cannot_be_made_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(tmp_path))
    place, really_open = StateDirectory("attach", "/image/config.json"), os.open

    def refuse(path: str, *more: int, **options: int) -> int:
        if path.endswith("/lock"):
            raise OSError(28, "No space left on device")
        return really_open(path, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(OSError, match="No space left"):
            place.acquire()
    assert left(place) == []
    assert place.acquire()
    place.release()
