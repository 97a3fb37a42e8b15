"""Fetching in advance: what is asked of the core, how it stops, what is said, which layer holds a trace."""

import errno
import io
import logging
import tarfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

import obdcore
from cache import prefetch
from cache.prefetch import Replay, check_size, load_file, load_layer
from tests.ref import trace_ref

TRACE = trace_ref.write([(0, 0, 4096)] * 1000)
IMAGE = cast(obdcore.Image, object())
STATS = {"notes": [], "skipped": 0, "failed": 0, "first_error": "", "pieces": 3, "fetched_bytes": 12288}


class Fetches:
    """The core's part: what it was asked for; it has ended once `ended` is set."""

    made: "list[Fetches]"
    says: dict[str, Any]

    def __init__(self, image: object, data: bytes, *, workers: int, max_bytes: int) -> None:
        self.asked = (image, data, workers, max_bytes)
        self.ended, self.stopped = threading.Event(), threading.Event()
        self.made.append(self)

    def wait(self, timeout: float) -> bool:
        return self.ended.wait(0.005)

    def stop(self) -> None:
        self.stopped.set()

    def stats(self) -> dict[str, Any]:
        return STATS | self.says


@pytest.fixture(autouse=True)
def core(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> type[Fetches]:
    caplog.set_level(logging.INFO, "overlaybd.prefetch")
    monkeypatch.setattr(Fetches, "made", [], raising=False)
    monkeypatch.setattr(Fetches, "says", {}, raising=False)
    monkeypatch.setattr(obdcore, "Prefetch", Fetches)
    return Fetches


def begun(core: type[Fetches], replay: Replay) -> Fetches:
    """What the core has been asked for, once it has."""
    while not replay.stats():
        assert not replay.wait(0.001)
    return core.made[0]


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    assert {record.name for record in caplog.records} <= {"overlaybd.prefetch"}
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_all_is_asked_of_the_core_and_the_end_is_told(
    core: type[Fetches], caplog: pytest.LogCaptureFixture
) -> None:
    replay = Replay(IMAGE, lambda: TRACE, name="image", workers=7, max_bytes=1 << 30)
    fetches = begun(core, replay)
    assert fetches.asked == (IMAGE, TRACE, 7, 1 << 30)
    assert replay.wait(0.01) is False and replay.stats() == STATS and said(caplog) == []
    fetches.ended.set()
    assert replay.wait() is True
    assert said(caplog) == [("INFO", "image: 3 ranges there, 12288 bytes fetched")]
    replay.stop()


def test_what_was_not_fetched_is_told(core: type[Fetches], caplog: pytest.LogCaptureFixture) -> None:
    core.says = {"notes": ["too many", "odd"], "skipped": 4, "failed": 2, "first_error": "io: GET: no"}
    replay = Replay(IMAGE, lambda: TRACE, name="image", workers=1, max_bytes=0)
    begun(core, replay).ended.set()
    assert replay.wait()
    assert said(caplog) == [
        ("WARNING", "image: too many"),
        ("WARNING", "image: odd"),
        ("WARNING", "image: 4 entries say nothing about this image"),
        ("WARNING", "image: 2 of the ranges could not be fetched in advance; the first: io: GET: no"),
        ("INFO", "image: 3 ranges there, 12288 bytes fetched"),
    ]


def test_stopping_ends_the_fetches(core: type[Fetches]) -> None:
    replay = Replay(IMAGE, lambda: TRACE, name="image", workers=1, max_bytes=0)
    fetches = begun(core, replay)
    replay.stop()
    assert fetches.stopped.is_set() and replay.wait(60), "though the core has not ended"


def test_stopping_before_the_trace_is_there_begins_nothing(
    core: type[Fetches], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "_STOP_S", 0.001)
    asked, there = threading.Event(), threading.Event()

    def load() -> bytes:
        asked.set()
        there.wait(60)
        return TRACE

    replay = Replay(IMAGE, load, name="image", workers=1, max_bytes=0)
    assert asked.wait(60) and replay.stats() == {}
    replay.stop()
    there.set()
    assert replay.wait(60) and core.made == []


def test_nothing_to_fetch_is_no_failure(core: type[Fetches], caplog: pytest.LogCaptureFixture) -> None:
    replay = Replay(IMAGE, lambda: b"", name="image", workers=1, max_bytes=0)
    assert replay.wait(60) and core.made == [] and said(caplog) == []


@pytest.mark.parametrize(
    ("error", "why"), [(OSError(errno.EIO, "no way"), "no way"), (OSError("odd"), "odd")]
)
def test_a_trace_that_cannot_be_had_is_a_line(
    caplog: pytest.LogCaptureFixture, error: OSError, why: str
) -> None:
    def load() -> bytes:
        raise error

    assert Replay(IMAGE, load, name="image", workers=1, max_bytes=0).wait(60)
    assert said(caplog) == [("WARNING", f"image: nothing is fetched in advance: {why}")]


# ---- where a trace is


class Layer:
    """A blob in memory that gives no more than a piece at a time."""

    def __init__(self, data: bytes, size: int = 0) -> None:
        self.data, self.size = data, size or len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        assert length <= 4 << 20 and offset + length <= self.size
        return self.data[offset : offset + length]


def tar(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, packed: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=cast(Any, f"w:{packed}")) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.type = kind if name == "trace" else tarfile.REGTYPE
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_a_large_layer_is_read_in_pieces() -> None:
    data = tar(("other", bytes(9 << 20)), ("./trace", TRACE), ("trace", b"a second one"))
    assert load_layer(Layer(data), "layer") == TRACE


@pytest.mark.parametrize(
    ("data", "number", "says"),
    [
        (
            tar(("deep/trace", b"x"), ("tracer", b"x")),
            errno.ENOENT,
            "no file trace in it: not an acceleration",
        ),
        (tar(("trace", b""), kind=tarfile.DIRTYPE), errno.ENOENT, "no file trace in it"),
        (tar(("trace", TRACE), packed="gz"), errno.EIO, "not a tar that can be read"),
        (b"junk" * 1000, errno.EIO, "not a tar that can be read"),
    ],
)
def test_what_is_no_acceleration_layer_says_why(data: bytes, number: int, says: str) -> None:
    with pytest.raises(OSError, match=rf"^\[Errno {number}\] layer: {says}") as caught:
        load_layer(Layer(data), "layer")
    assert caught.value.errno == number


def test_what_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = prefetch.MAX_TAR_BYTES
    assert most >= 4 * 1024 * 1024 * 24 + 24
    with pytest.raises(OSError, match=f"layer: {most + 1} bytes are too many") as caught:
        load_layer(Layer(b"", most + 1), "layer")
    assert caught.value.errno == errno.E2BIG
    with pytest.raises(OSError, match="layer: not a tar"):
        load_layer(Layer(b"", most), "layer")
    monkeypatch.setattr(prefetch, "MAX_TRACE_BYTES", len(TRACE))
    monkeypatch.setattr(prefetch, "MAX_LIST_BYTES", 10)
    longer = trace_ref.write([(0, 0, 4096)] * 1001)
    for data, limit, good in [
        (TRACE, len(TRACE), True),
        (longer, len(TRACE), False),
        (b"/" * 10, 10, True),
        (b"/" * 11, 10, False),
    ]:
        (tmp_path / "file").write_bytes(data)
        layer = Layer(tar(("trace", data)))
        loads: list[Callable[[], bytes]] = [
            partial(check_size, data, "name"),
            partial(load_file, str(tmp_path / "file")),
            partial(load_layer, layer, "name"),
        ]
        for load in loads:
            if good:
                assert load() == data
                continue
            with pytest.raises(OSError, match=f"(name|file): more than {limit} bytes") as caught:
                load()
            assert caught.value.errno == errno.E2BIG
