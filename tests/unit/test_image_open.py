"""Opening an image: where layers are found, what happens when they are bad, what the result file says."""

import hashlib
import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

import obd
import obdcore
from obd.config import ConfigError, ImageConfig, Lower
from obd.errors import ObdError
from obd.reasons import OpenError

GOLDEN = Path(__file__).parents[1] / "golden" / "lsmt"
DIGEST = "sha256:" + "ab" * 32


def golden(name: str, target: Path) -> Path:
    """A golden file, uncompressed, as `target`."""
    packed = GOLDEN / f"{name}.zst"
    if packed.exists():
        target.write_bytes(zstandard.decompress(packed.read_bytes(), max_output_size=64 << 20))
    else:
        target.write_bytes((GOLDEN / name).read_bytes())
    return target


def flat(name: str) -> str:
    return (GOLDEN / f"{name}.flat.sha256").read_text().split()[0]


def sha256(device: "obd.image.Device") -> str:
    return hashlib.sha256(device.read(0, device.size)).hexdigest()


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """A directory with the committed golden layers a, b and c."""
    for name in "abc":
        golden(f"{name}.commit", tmp_path / f"{name}.commit")
    return tmp_path


def write(directory: Path, **content: Any) -> Path:
    path = directory / "config.v1.json"
    path.write_text(json.dumps({"resultFile": str(directory / "result"), **content}))
    return path


def result(directory: Path) -> str:
    return (directory / "result").read_text()


def test_a_stack_of_files_reads_as_upstream_reads_it(layers: Path) -> None:
    config = write(layers, lowers=[{"file": str(layers / f"{name}.commit")} for name in "abc"])
    with obd.open(config) as device:
        assert sha256(device) == flat("abc")
        assert device.read_only
        assert device.statistics()["read_bytes"] == device.size
        with pytest.raises(obdcore.Error) as caught:
            device.write(0, bytes(512))
        assert caught.value.kind == "read-only"
    assert result(layers) == "success"


@pytest.mark.parametrize("engine", [None, 0, 1, 2, 3])
def test_every_engine_reads_the_same(layers: Path, engine: int | None) -> None:
    service = layers / "overlaybd.json"
    service.write_text(json.dumps({} if engine is None else {"ioEngine": engine}))
    config = write(layers, lowers=[{"file": str(layers / f"{name}.commit")} for name in "abc"])
    with obd.open(config, service) as device:
        assert sha256(device) == flat("abc")


def test_there_are_no_other_engines(layers: Path) -> None:
    with pytest.raises(obdcore.Error, match="no I/O engine 4"):
        obdcore.Image([str(layers / "a.commit")], engine=4)


def test_writes_go_to_the_upper_and_stay_there(layers: Path) -> None:
    golden("c.data", layers / "data")
    golden("c.index", layers / "index")
    upper = {"data": str(layers / "data"), "index": str(layers / "index")}
    config = write(layers, lowers=[{"file": str(layers / f"{name}.commit")} for name in "ab"], upper=upper)
    with obd.open(config) as device:
        assert sha256(device) == flat("abc")
        assert not device.read_only
        device.write(4096, b"\x5a" * 1024)
        device.discard(8192, 4096)
        device.flush()
    with obd.open(config) as device:
        assert device.read(4096, 1024) == b"\x5a" * 1024
        assert device.read(8192, 4096) == bytes(4096)


def test_the_search_order_in_a_directory(layers: Path) -> None:
    wanted = ["overlaybd.sealed", ".commit", "overlaybd.commit"]
    for later, name in enumerate(wanted):
        golden("a.commit", layers / name)
        for other in wanted[:later]:
            (layers / other).write_bytes(b"not a layer, and not looked at")
        with obd.open(write(layers, lowers=[{"dir": str(layers)}])) as device:
            assert sha256(device) == flat("a")
            assert device.sources[0].path == str(layers / name)
    elsewhere = golden("b.commit", layers / "elsewhere")
    with obd.open(write(layers, lowers=[{"dir": str(layers), "file": str(elsewhere)}])) as device:
        assert device.sources[0].path == str(elsewhere), "file goes first"
    with obd.open(write(layers, lowers=[{"dir": str(layers), "file": str(layers / "absent")}])) as device:
        assert device.sources[0].path == str(layers / "overlaybd.commit")


def test_an_empty_dir_is_not_the_root_directory() -> None:
    from obd.locate import candidates

    assert list(candidates(Lower(file="/x"))) == ["/x"]
    assert list(candidates(Lower())) == []


def test_nowhere(layers: Path) -> None:
    with pytest.raises(OpenError) as caught:
        obd.open(write(layers, lowers=[{"dir": str(layers / "absent"), "digest": DIGEST}]))
    assert caught.value.kind == "not-found"
    assert result(layers).startswith("failed:empty repoBlobUrl: layer 0 is in none of its places")
    with pytest.raises(OpenError):
        obd.open(
            write(
                layers,
                repoBlobUrl="http://127.0.0.1:1/v2/a/blobs",
                lowers=[{"file": str(layers / "a.commit")}, {"dir": str(layers / "absent")}],
            )
        )
    assert result(layers).startswith("failed:failed to open layer 1: ")


def test_a_corrupt_layer_is_named(layers: Path) -> None:
    bad = layers / "bad"
    bad.write_bytes((layers / "a.commit").read_bytes()[:-512])
    with pytest.raises(OpenError) as caught:
        obd.open(write(layers, lowers=[{"file": str(layers / "a.commit")}, {"file": str(bad)}]))
    assert caught.value.source is not None and caught.value.source.position == 1
    assert result(layers).startswith("failed:failed to create overlaybd device: corrupt: ")
    assert str(bad) in result(layers)


def test_a_file_that_cannot_be_opened_is_named(layers: Path) -> None:
    (layers / "directory").mkdir()
    with pytest.raises(OpenError):
        obd.open(write(layers, lowers=[{"file": str(layers / "directory")}]))
    assert result(layers).startswith(f"failed:failed to open local file {layers / 'directory'}: ")


def test_a_broken_upper_leaves_a_message(layers: Path) -> None:
    (layers / "data").write_bytes(bytes(4096))
    (layers / "index").write_bytes(bytes(4096))
    with pytest.raises(OpenError):
        obd.open(
            write(
                layers,
                lowers=[{"file": str(layers / "a.commit")}],
                upper={"data": str(layers / "data"), "index": str(layers / "index")},
            )
        )
    assert result(layers).startswith("failed:failed to open upper ")


def test_an_upper_is_opened_once(layers: Path) -> None:
    golden("a.data", layers / "data")
    golden("a.index", layers / "index")
    config = write(layers, upper={"data": str(layers / "data"), "index": str(layers / "index")})
    with obd.open(config):
        with pytest.raises(ObdError) as caught:
            obd.open(config)
        assert caught.value.kind == "denied"
        assert "is open elsewhere" in str(caught.value)
    obd.open(config).close()


def test_a_wrong_configuration_is_reported_where_it_asks_for_it(layers: Path) -> None:
    with pytest.raises(ConfigError):
        obd.open(write(layers, lowers=[{"file": 7}]))
    assert result(layers).startswith("failed:invalid: ")
    assert "lowers[0].file: 7 is not allowed" in result(layers)
    with pytest.raises(ConfigError):
        obd.open(ImageConfig(result_file=str(layers / "result")))
    assert result(layers).startswith("failed:invalid: no layers: ")


def test_an_old_result_is_cleared_and_the_new_one_is_whole(
    layers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (layers / "result").write_text("success")
    seen = []

    def image(*args: object, **options: object) -> None:
        seen.append(result(layers))
        raise obdcore.Error(5, "io: broken")

    monkeypatch.setattr("obdcore.Image", image)
    with pytest.raises(OpenError):
        obd.open(write(layers, lowers=[{"file": str(layers / "a.commit")}]))
    assert seen == [""]
    assert result(layers) == "failed:failed to create overlaybd device: [Errno 5] io: broken"
    assert stat.S_IMODE(os.stat(layers / "result").st_mode) == 0o644
    assert not [name for name in os.listdir(layers) if name.startswith(".result")]


def test_a_result_file_that_cannot_be_written_changes_nothing(
    layers: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lowers = [{"file": str(layers / "a.commit")}]
    with obd.open(write(layers, lowers=lowers, resultFile=str(layers / "absent" / "result"))) as device:
        assert device.size > 0
    assert "cannot write the result file" in caplog.text
    with obd.open(write(layers, lowers=lowers, resultFile="/dev/null")):
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode), "a device is written to, never replaced"


def test_a_public_image_needs_no_http_library_of_python() -> None:
    program = "import sys, obd.image, obd.registry; print(*{'requests', 'urllib3', 'ssl'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n", "a command that mounts an image must start fast"


def test_unknown_keys_are_said(layers: Path, caplog: pytest.LogCaptureFixture) -> None:
    lower = {"file": str(layers / "a.commit")}
    caplog.set_level(logging.WARNING)
    with obd.open(write(layers, lowers=[lower], typo=1)):
        pass
    assert "unknown key typo is ignored" in caplog.text
