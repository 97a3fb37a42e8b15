"""What tests may ask for by name."""

from pathlib import Path

import pytest


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sockets and state are kept meanwhile: no other process of the machine has any there."""
    place = tmp_path / "run"
    monkeypatch.setenv("OVERLAYBD_RUN_DIR", str(place))
    return place
