"""What processes leave that are killed at a bad moment: the next run takes it away, or goes on with it."""

import fcntl
import json
import os
from pathlib import Path

import pytest

import obd
import obdcore
from cache.partial import Partial
from obd import turbo_meta
from obd.convert.record import Made, Records
from obd.convert.work import Work
from obd.errors import ObdError
from obd.image import Device
from obd.result import ResultFile
from tools.output import Output

BLOCK = 4096
SIZE = 1 << 20
MADE = Made("sha256:" + "0" * 64, 1, "sha256:" + "1" * 64, "native")


def test_an_output_takes_away_what_killed_commands_left_of_it(tmp_path: Path) -> None:
    dead = tmp_path / ".out.0123456789ab.tmp"
    others = [".out.tmp", ".out.0123456789ab.tmp.x", ".other.0123456789ab.tmp", ".out.short.tmp"]
    for name in (dead.name, *others):
        (tmp_path / name).touch()
    with Output(str(tmp_path / "out")) as alive:
        # One that lives, in another process say, is left alone.
        with Output(str(tmp_path / "out")):
            assert os.path.exists(alive.temporary)
            raise_nothing = not dead.exists()
        (tmp_path / "out").unlink()
    assert raise_nothing and sorted(os.listdir(tmp_path)) == sorted([*others, "out"])


def test_so_it_is_when_the_output_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    (tmp_path / ".out.0123456789ab.tmp").touch()
    with pytest.raises(Exception, match="exists"), Output(str(tmp_path / "out")):
        pass
    assert os.listdir(tmp_path) == ["out"]


def test_metadata_of_turbo_oci(tmp_path: Path) -> None:
    dead, alive = (tmp_path / f"sha256-1.{number * 16}.tmp" for number in "ab")
    for place in (dead, alive):
        place.mkdir()
        (place / "ext4.fs.meta").touch()
    (tmp_path / "sha256-1").mkdir()
    (tmp_path / "sha256-1.x.tmp").mkdir()
    lock = os.open(alive, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    turbo_meta.clear(str(tmp_path))
    os.close(lock)
    assert sorted(os.listdir(tmp_path)) == ["sha256-1", alive.name, "sha256-1.x.tmp"]


def test_records_of_conversions(tmp_path: Path) -> None:
    (tmp_path / ".obd-0123456789abcdef.tmp").touch()
    records = Records(str(tmp_path))
    records.put("key", MADE)
    assert os.listdir(tmp_path) == ["key.json"] and records.get("key") == MADE


def test_a_result(tmp_path: Path) -> None:
    (tmp_path / ".result-result.new").write_text("succ")
    ResultFile(str(tmp_path / "result")).success()
    assert os.listdir(tmp_path) == ["result"] and (tmp_path / "result").read_text() == "success"


def test_a_layer_that_was_put_in_place(tmp_path: Path) -> None:
    upper = [str(tmp_path / "u"), str(tmp_path / "u.index")]
    obdcore.lsmt_create(upper[0], upper[1], size=SIZE)
    layer = tmp_path / "layer"
    layer.mkdir()
    with (layer / "overlaybd.commit").open("wb") as file:
        obdcore.lsmt_commit(upper[0], upper[1], file.fileno())
    for name in (".download.lock", ".download.progress", ".download.map"):
        (layer / name).touch()
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"lowers": [{"dir": str(layer)}]}))
    # Not while somebody is at it.
    mine = Partial.lock(str(layer))
    assert mine is not None
    obd.open(config).close()
    assert len(os.listdir(layer)) == 4
    mine.release()
    (layer / ".download.lock").touch()
    obd.open(config).close()
    assert os.listdir(layer) == ["overlaybd.commit"]


@pytest.mark.parametrize("data", [b"", bytes(BLOCK), bytes(2 * BLOCK)])
@pytest.mark.parametrize("index", [None, 0, BLOCK])
def test_the_upper_of_a_snapshot_that_was_being_made(tmp_path: Path, data: bytes, index: int | None) -> None:
    new = tmp_path / "u1"
    with new.open("wb") as file:
        file.truncate(len(data))
    if index is not None:
        (tmp_path / "u1.index").write_bytes(bytes(index))
    with _device(tmp_path) as device:
        device.write(0, b"a" * BLOCK)
        device.snapshot(str(new), f"{new}.index")
        assert device.read(0, BLOCK) == b"a" * BLOCK


def test_files_with_something_in_them_stay(tmp_path: Path) -> None:
    new = tmp_path / "u1"
    (tmp_path / "u1.index").write_bytes(bytes(BLOCK + 16))
    for content in (b"", bytes(2 * BLOCK) + b"x", b"x"):
        new.write_bytes(content)
        with _device(tmp_path) as device, pytest.raises(obdcore.Error):
            device.snapshot(str(new), f"{new}.index")
        assert new.read_bytes() == content


def _device(home: Path) -> Device:
    for name in ("u0", "u0.index"):
        (home / name).unlink(missing_ok=True)
    upper = {"data": str(home / "u0"), "index": str(home / "u0.index")}
    obdcore.lsmt_create(upper["data"], upper["index"], size=SIZE)
    config = home / "config.json"
    config.write_text(json.dumps({"upper": upper}))
    return obd.open(config)


def test_a_snapshot_that_cannot_be_announced_says_which_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with _device(tmp_path) as device:
        monkeypatch.setattr("os.fsync", refuse)
        with pytest.raises(
            ObdError, match=r"no-space: .*config\.json: the new configuration cannot be written"
        ):
            device.snapshot(str(tmp_path / "u1"), str(tmp_path / "u1.index"))
        monkeypatch.undo()
        assert not list(tmp_path.glob("config.json.snapshot*"))


def fail(path: str) -> None:
    """Removes nothing."""
    raise OSError(5, "Input/output error", path)


def test_so_is_that_of_a_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Work(str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", fail)
        first.close()
    assert len(os.listdir(tmp_path / "runs")) == 1
    Work(str(tmp_path)).close()
    assert os.listdir(tmp_path / "runs") == []


def test_a_lock_that_cannot_be_removed_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Partial.lock(str(tmp_path))
    assert first is not None
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", fail)
        first.release()
    second = Partial.lock(str(tmp_path))
    assert second is not None
    second.release()
    assert os.listdir(tmp_path) == []


def test_a_run_of_a_conversion_that_has_no_room_for_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Work(str(tmp_path / "work")).close()

    def mkdir(path: str, _: int) -> None:
        raise OSError(28, "No space left on device", path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", mkdir)
        with pytest.raises(OSError, match="No space"):
            Work(str(tmp_path / "work"))
    assert os.listdir(tmp_path / "work/runs") == []
