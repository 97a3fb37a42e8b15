"""Recording into a file by the protocol of upstream's clients, and reading what is a trace or a list."""

import io
import logging
import os
import random
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import obd
import obdcore
from cache.prefetch import load_file, load_layer
from cache.trace import Recording, write_file
from obd.config import ImageConfig, Lower
from tests.e2e.commands import ok
from tests.ref import trace_ref

MIB = 1 << 20
PAGE = 4096


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One layer of 4 MiB, compressed, in a tar."""
    home = tmp_path_factory.mktemp("layers")
    (home / "bottom.raw").write_bytes(random.Random(5).randbytes(4 * MIB))
    ok("obd", "import", "-z", "-t", home / "bottom.raw", home / "bottom")
    return [home / "bottom"]


def image(layers: list[Path]) -> ImageConfig:
    return ImageConfig(lowers=tuple(Lower(file=str(path)) for path in layers))


def wait_for(condition: Callable[[], bool]) -> None:
    """Returns once the condition holds; fails after a time that no machine needs."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waits in vain"
        time.sleep(0.01)


def test_the_client_takes_the_lock_away_and_finds_the_trace(tmp_path: Path, layers: list[Path]) -> None:
    trace = tmp_path / "trace"
    trace.touch(mode=0o640)
    (tmp_path / "trace.ok").touch()
    with obd.open(image(layers)) as device:
        recording = Recording(device.native, str(trace))
        assert (tmp_path / "trace.lock").exists() and not (tmp_path / "trace.ok").exists()
        device.read(MIB, PAGE)
        device.read(MIB, PAGE)
        assert trace.stat().st_size == 0
        (tmp_path / "trace.lock").unlink()
        wait_for((tmp_path / "trace.ok").exists)
        assert trace.stat().st_mode & 0o777 == 0o640
        device.read(2 * MIB, PAGE)
        recording.stop()
        assert not device.native.recording
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["trace", "trace.ok"]
    records = trace_ref.read(trace.read_bytes())
    assert obdcore.trace_parse(trace.read_bytes()) == records
    assert {layer for layer, _, _ in records} == {0}
    assert (0, 0, PAGE) in records, "the reads that open a layer are part of it"
    # The page's place in the layer: what comes before it in the image, behind a header.
    assert [length for _, offset, length in records if PAGE < offset < 4 * MIB] == [PAGE]


def test_a_device_that_closes_ends_the_recording(tmp_path: Path, layers: list[Path]) -> None:
    trace = tmp_path / "trace"
    trace.touch()
    with obd.open(ImageConfig(lowers=image(layers).lowers, record_trace_path=str(trace))) as device:
        assert device.recording
        device.read(0, 3 * MIB)
    assert (tmp_path / "trace.ok").exists() and not (tmp_path / "trace.lock").exists()
    assert max(length for _, _, length in trace_ref.read(trace.read_bytes())) == MIB, "upstream's buffer"


def test_a_trace_that_cannot_be_written_stays_empty(
    tmp_path: Path, layers: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: str, data: bytes, *, like: str = "") -> None:
        raise OSError(28, "No space left on device")

    trace = tmp_path / "trace"
    trace.touch()
    with obd.open(image(layers)) as device:
        recording = Recording(device.native, str(trace))
        monkeypatch.setattr("cache.trace.write_file", full)
        recording.stop()
    assert trace.stat().st_size == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["trace"], "no ok file"
    assert "cannot be written: No space left" in caplog.text


def test_what_there_is_so_far_is_kept_beside_the_trace(
    tmp_path: Path, layers: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.trace.POLL_S", 0.005)
    monkeypatch.setattr("cache.trace.SAVE_S", 0.01)
    partial = tmp_path / "trace.partial"
    (tmp_path / "trace").touch()
    with obd.open(image(layers)) as device:
        recording = Recording(device.native, str(tmp_path / "trace"))
        wait_for(partial.exists)
        before = len(trace_ref.read(partial.read_bytes()))
        device.read(MIB, PAGE)
        wait_for(lambda: len(trace_ref.read(partial.read_bytes())) == before + 1)
        recording.stop()
    assert not partial.exists()


def test_nothing_is_recorded_where_it_cannot_be(tmp_path: Path, layers: list[Path]) -> None:
    with obd.open(image(layers)) as device:
        with pytest.raises(FileNotFoundError):
            Recording(device.native, str(tmp_path / "absent" / "trace"))
        assert not device.native.recording
        (tmp_path / "trace").touch()
        first = Recording(device.native, str(tmp_path / "trace"))
        with pytest.raises(obdcore.Error, match="busy"):
            device.native.start_recording()
        first.stop()
        with pytest.raises(obdcore.Error, match="invalid"):
            device.native.stop_recording()
    absent = ImageConfig(lowers=image(layers).lowers, record_trace_path=str(tmp_path / "absent"))
    with obd.open(absent) as device:
        assert not device.recording, "a path that does not exist asks for nothing"
    assert not (tmp_path / "absent").exists()


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(str(path), b"one")
    with pytest.raises(TypeError):
        write_file(str(path), "two")  # type: ignore[arg-type]
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"one", ["file"])


class Memory:
    """A blob in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def acceleration_layer(name: str, content: bytes) -> Memory:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, data in (("other", b"no"), (name, content)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return Memory(buffer.getvalue())


@pytest.mark.parametrize("name", ["trace", "./trace"])
def test_the_trace_in_an_acceleration_layer(name: str) -> None:
    trace = trace_ref.write([(0, 0, PAGE)] * 1000)
    assert load_layer(acceleration_layer(name, trace), "layer") == trace


@pytest.mark.parametrize(
    "blob",
    [
        acceleration_layer("elsewhere", b"x"),
        Memory(b"no tar at all" * 1000),
        Memory(acceleration_layer("trace", bytes(9000)).data[:4000]),
        Memory(b""),
    ],
)
def test_a_layer_without_a_trace_is_an_error(blob: Memory) -> None:
    with pytest.raises(OSError, match="layer: "):
        load_layer(blob, "layer")


def test_a_file_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.prefetch.MAX_LIST_BYTES", 100)
    (tmp_path / "list").write_bytes(b"/usr/bin/x\n" * 10)
    with pytest.raises(OSError, match="more than 100 bytes"):
        load_file(str(tmp_path / "list"))
    trace = trace_ref.write([(0, 0, PAGE)] * 5)
    (tmp_path / "trace").write_bytes(trace)
    assert load_file(str(tmp_path / "trace")) == trace
    assert load_file(str(tmp_path / "absent")) == b""


def test_a_damaged_trace_is_a_line_in_the_log_and_nothing_else(
    tmp_path: Path, layers: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    from cache.prefetch import Replay

    caplog.set_level(logging.INFO)
    trace = trace_ref.write([(0, 0, PAGE)])
    with obd.open(image(layers)) as device:
        bad = Replay(device.native, lambda: trace[:-1] + b"\xff", name="bad", workers=2, max_bytes=0)
        assert bad.wait(20)
        foreign = trace_ref.write([(0, MIB, PAGE), (7, 0, PAGE), (0, 1 << 40, PAGE)], padding=b"abc")
        good = Replay(device.native, lambda: foreign, name="good", workers=2, max_bytes=0)
        assert good.wait(20)
        good.stop()
        assert good.stats()["fetched_bytes"] == 0, "the layer is local"
    assert "bad: nothing is fetched in advance: corrupt: " in caplog.text
    assert "good: 2 entries say nothing about this image" in caplog.text
