"""Snapshots and growth of an open device: its layers, its configuration file, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import obd
import obdcore
from obd.errors import ObdError

SIZE = 1 << 20
BLOCK = 4096


def create(directory: Path, name: str, size: int = SIZE, **options: Any) -> dict[str, str]:
    """The files of a new upper, as a configuration names them."""
    files = {"data": str(directory / name), "index": str(directory / f"{name}.index")}
    obdcore.lsmt_create(files["data"], files["index"], size=size, **options)
    return files


def write(path: Path, **content: Any) -> Path:
    path.write_text(json.dumps({"resultFile": f"{path}.result", **content}))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a device with a sealed lower, whose first block is of `l`, and an upper `u0`."""
    lower = create(tmp_path, "lower")
    with obd.open(write(tmp_path / "lower.json", upper=lower)) as device:
        device.write(0, b"l" * BLOCK)
    obdcore.lsmt_seal(lower["data"], lower["index"])
    upper = create(tmp_path, "u0", size=0)
    return write(tmp_path / "config.json", lowers=[{"file": lower["data"]}], upper=upper, fromElsewhere=1)


def following(config: Path, name: str, **options: Any) -> Path:
    """A configuration with the upper of `config` as a lower, and a new upper; as a client makes it."""
    root = json.loads(config.read_text())
    root["lowers"].append({"file": root["upper"]["data"]})
    root["upper"] = create(config.parent, name, **options)
    root["resultFile"] = str(config.parent / f"{name}.result")
    path = config.parent / f"{name}.json"
    path.write_text(json.dumps(root))
    return path


def blocks(device: "obd.image.Device", count: int = 4) -> bytes:
    """The first byte of each of the first blocks, all of whose bytes are the same."""
    data = device.read(0, count * BLOCK)
    firsts = data[::BLOCK]
    assert data == b"".join(bytes([one]) * BLOCK for one in firsts)
    return firsts


@pytest.mark.parametrize("sparse", [False, True])
def test_a_snapshot_makes_the_upper_a_lower_and_the_configuration_says_so(config: Path, sparse: bool) -> None:
    data, index = str(config.parent / "u1"), str(config.parent / "u1.index")
    with obd.open(config) as device:
        device.write(BLOCK, b"a" * BLOCK)
        taken = device.snapshot(data, index, sparse=sparse)
        device.write(2 * BLOCK, b"b" * BLOCK)
        assert blocks(device) == b"lab\0"
        assert (taken.sealed, taken.segments, taken.repeated) == (str(config.parent / "u0"), 1, False)
        statistics = device.statistics()
        assert statistics["snapshots"] == 1
        assert [layer["source"] for layer in statistics["layers"]] == [
            str(config.parent / "lower"),
            taken.sealed,
        ]
        second = device.snapshot(str(config.parent / "u2"), str(config.parent / "u2.index"))
        assert second.sealed == data
        device.discard(0, BLOCK)
    root = json.loads(config.read_text())
    names = [Path(lower["file"]).name for lower in root["lowers"]]
    assert names == ["lower", "u0", "u1"]
    assert Path(root["upper"]["data"]).name == "u2"
    assert root["fromElsewhere"] == 1
    with obd.open(config) as device:
        assert blocks(device) == b"\0ab\0"
    with obd.open(write(config.parent / "below.json", lowers=root["lowers"][:2])) as device:
        assert blocks(device) == b"la\0\0"


def test_a_snapshot_to_a_configuration_puts_that_in_place_and_may_be_repeated(config: Path) -> None:
    wanted = following(config, "u1")
    config.chmod(0o600)
    wanted.chmod(0o640)
    with obd.open(config) as device:
        device.write(BLOCK, b"a" * BLOCK)
        assert not device.snapshot_to(wanted).repeated
        device.write(2 * BLOCK, b"b" * BLOCK)
        assert device.snapshot_to(wanted).repeated
        assert device.snapshots == 1
        assert blocks(device) == b"lab\0"
        assert device.config.file == str(config)
    assert (config.parent / "u1.result").read_text() == "success"
    assert config.read_bytes() == wanted.read_bytes()
    assert config.stat().st_mode & 0o777 == 0o640
    assert not list(config.parent.glob("*.snapshot*"))
    with obd.open(config) as device:
        assert blocks(device) == b"lab\0"


def change(config: Path, **changes: Any) -> Path:
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    return config


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"lowers": []}, "the device has 1 and one is to be added"),
        ({"lowers": [{"file": "DIR/u0"}, {"file": "DIR/lower"}]}, "lowers[0] is not the layer"),
        ({"lowers": [{"file": "DIR/lower"}, {"file": "DIR/lower"}]}, "lowers[1] must be the present upper"),
        ({"upper": {"data": "DIR/u0", "index": "DIR/u0.index"}}, "upper.data: DIR/u0 is that of the present"),
        ({"upper": {"data": "DIR/u1", "index": "DIR/./u0.index"}}, "is that of the present upper"),
        ({"upper": {}}, "upper must name both"),
        ({"upper": {"data": "DIR/no", "index": "DIR/u1.index"}}, "one file of the new upper is missing"),
        (
            {"upper": {"data": "DIR/small", "index": "DIR/small.index"}},
            "of 4096 bytes, the device of 1048576",
        ),
        ({"upper": {"data": "DIR/full", "index": "DIR/full.index"}}, "is not empty"),
        ({"lowers": 7}, "lowers: 7 is not allowed"),
    ],
)
def test_a_configuration_that_does_not_follow_is_refused(
    config: Path, changes: dict[str, Any], complaint: str
) -> None:
    directory = str(config.parent)
    changes = json.loads(json.dumps(changes).replace("DIR", directory))
    create(config.parent, "small", size=BLOCK)
    full = create(config.parent, "full")
    with obd.open(write(config.parent / "full.json", upper=full)) as device:
        device.write(0, b"x" * BLOCK)
    wanted = change(following(config, "u1"), **changes)
    before = config.read_bytes()
    with obd.open(config) as device:
        with pytest.raises((ObdError, obdcore.Error)) as caught:
            device.snapshot_to(wanted)
        assert complaint.replace("DIR", directory) in str(caught.value)
        assert config.read_bytes() == before
        device.write(BLOCK, b"a" * BLOCK)
        device.flush()
        assert device.snapshots == 0
    assert complaint.replace("DIR", directory) in (config.parent / "u1.result").read_text()
    assert (config.parent / "config.json.result").read_text() == "success"
    assert not list(config.parent.glob("*.snapshot*"))


def test_what_could_not_be_put_in_place_is_by_the_next_flush(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = following(config, "u1")
    before = config.read_bytes()
    with obd.open(config) as device:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "no")))
            with pytest.raises(obdcore.Error, match="configuration not put in place"):
                device.snapshot_to(wanted)
            device.write(BLOCK, b"a" * BLOCK)
            with pytest.raises(obdcore.Error):
                device.flush()
        assert config.read_bytes() == before
        device.flush()
        assert config.read_bytes() == wanted.read_bytes()
        assert device.snapshot_to(wanted).repeated
    with obd.open(config) as device:
        assert blocks(device) == b"la\0\0"


def test_another_snapshot_first_finishes_the_one_before(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [(str(config.parent / name), str(config.parent / f"{name}.index")) for name in ("u1", "u2")]
    with obd.open(config) as device:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "no")))
            with pytest.raises(obdcore.Error, match="configuration not put in place"):
                device.snapshot(*names[0])
        device.write(BLOCK, b"a" * BLOCK)
        device.snapshot(*names[1])
        device.write(2 * BLOCK, b"b" * BLOCK)
        assert device.snapshots == 2
    with obd.open(config) as device:
        assert blocks(device) == b"lab\0"


# Is killed while it takes a snapshot: before it says so, before the cut, or after it with a write above.
CHILD = """
import os, signal, sys
import obd
config, moment = sys.argv[1:]
device = obd.open(config)
device.write(4096, b"a" * 4096)
rename = os.rename
def die(when):
    if when == moment:
        os.kill(os.getpid(), signal.SIGKILL)
def announce(*names):
    die("before")
    rename(*names)
    die("announced")
def publish(*names):
    device.write(8192, b"b" * 4096)
    die("cut")
os.rename, os.replace = announce, publish
upper = os.path.join(os.path.dirname(config), "u1")
device.snapshot(upper, upper + ".index")
"""


@pytest.mark.parametrize(
    ("moment", "content"), [("before", b"la\0\0"), ("announced", b"la\0\0"), ("cut", b"lab\0")]
)
def test_a_kill_while_a_snapshot_is_taken_loses_nothing(config: Path, moment: str, content: bytes) -> None:
    """What was acknowledged is there, flushed or not: a kernel's device lives on, and relies on it."""
    before = json.loads(config.read_text())
    child = subprocess.run([sys.executable, "-c", CHILD, config, moment], check=False)
    assert child.returncode == -signal.SIGKILL
    assert json.loads(config.read_text()) == before
    with obd.open(config) as device:
        assert blocks(device) == content
        taken = moment != "before"
        assert len(json.loads(config.read_text())["lowers"]) == len(before["lowers"]) + taken
    assert not list(config.parent.glob("*.snapshot-begun"))
    with obd.open(config) as device:
        assert blocks(device) == content


def test_an_announcement_that_does_not_follow_is_refused(config: Path) -> None:
    begun = config.with_name("config.json.snapshot-begun")
    begun.write_bytes(config.read_bytes())
    with pytest.raises(ObdError, match="does not follow"):
        obd.open(config)
    begun.write_bytes(following(config, "u1").read_bytes())
    (config.parent / "u1").unlink()
    with obd.open(config) as device:
        assert blocks(device) == b"l\0\0\0"
    assert not begun.exists(), "the snapshot had come to nothing, and is forgotten"


def test_a_configuration_that_was_changed_meanwhile_is_not_overwritten(config: Path) -> None:
    with obd.open(config) as device:
        change(config, lowers=[])
        with pytest.raises(ObdError, match="was changed since the device was opened"):
            device.snapshot(str(config.parent / "u1"), str(config.parent / "u1.index"))
        assert not (config.parent / "u1").exists()


def test_a_device_grows_and_stays_grown(config: Path) -> None:
    with obd.open(config) as device:
        device.resize(2 * SIZE)
        assert device.size == 2 * SIZE
        device.write(2 * SIZE - BLOCK, b"e" * BLOCK)
        for size, kind in ((SIZE, "invalid"), (2 * SIZE + 1, "out-of-bounds")):
            with pytest.raises(obdcore.Error) as caught:
                device.resize(size)
            assert caught.value.kind == kind
        device.snapshot(str(config.parent / "u1"), str(config.parent / "u1.index"))
        assert device.size == 2 * SIZE
    with obd.open(config) as device:
        assert device.size == 2 * SIZE
        assert device.read(2 * SIZE - BLOCK, BLOCK) == b"e" * BLOCK


def test_a_device_without_an_upper_takes_neither(config: Path) -> None:
    wanted = following(config, "u1")
    change(config, upper={})
    with obd.open(config) as device:
        for work in (lambda: device.resize(2 * SIZE), lambda: device.snapshot_to(wanted)):
            with pytest.raises((ObdError, obdcore.Error)) as caught:
                work()
            assert "read-only" in str(caught.value)
