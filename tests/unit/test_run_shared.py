"""The device that containers of an image share, when it cannot be had."""

from pathlib import Path

import pytest

from obd.run.shared import SharedImage
from obd.state import State, StateDirectory


def test_an_image_whose_state_cannot_be_written_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own lock was what this process then waited for: five minutes."""

    def refuse(_: StateDirectory, __: State) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(tmp_path))
    image = SharedImage({"lowers": []})
    with monkeypatch.context() as patch:
        patch.setattr(StateDirectory, "write", refuse)
        with pytest.raises(OSError, match="Input/output error"):
            image.provide("fuse", None)
    assert list((tmp_path / "images").iterdir()) == []
    image.leave()
