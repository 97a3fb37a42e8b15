"""Background download from a real registry: switch-over, resuming, damage, outages, two at one layer."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import obd
from cache.download import Downloads
from obd.image import Device
from obd.push import Repository
from obd.registry import Registry
from tests.e2e import servers
from tests.e2e.commands import START_S, names, ok, serving

DISK_BYTES = 24 << 20
RAW = random.Random(11).randbytes(DISK_BYTES)
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("layer")
    (home / "raw").write_bytes(RAW)
    ok("obd", "import", "-z", "-t", home / "raw", home / "layer")
    return home / "layer"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Registry]:
    with servers.Registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="module")
def digest(registry: servers.Registry, layer: Path) -> str:
    return Repository(Registry(), registry.repository("a/b")).push_file(str(layer)).digest


class Image:
    """An image of one remote layer, with a cache and a layer directory of its own."""

    def __init__(self, home: Path, base: str, digest: str, size: int, cache_type: str = "file") -> None:
        self.home, self.base, self.digest, self.size = home, base, digest, size
        self.dir = home / "layer"
        self.dir.mkdir(parents=True, exist_ok=True)
        cache = {"cacheType": cache_type, "cacheDir": str(home / "cache"), "cacheSizeGB": 1}
        self.service = home / "overlaybd.json"
        self.service.write_text(json.dumps({"cacheConfig": cache}))

    def config(self, **download: Any) -> Path:
        path = self.home / "config.v1.json"
        lower = {"digest": self.digest, "size": self.size, "dir": str(self.dir)}
        settings = {"enable": True, "delay": 0, "delayExtra": 1, "maxMBps": 0, **download}
        document = {"repoBlobUrl": f"{self.base}/blobs", "lowers": [lower], "download": settings}
        path.write_text(json.dumps(document))
        return path

    def open(self, **download: Any) -> Device:
        return obd.open(self.config(**download), str(self.service))


@pytest.fixture
def image(tmp_path: Path, registry: servers.Registry, digest: str, layer: Path) -> Image:
    return Image(tmp_path, registry.repository("a/b"), digest, layer.stat().st_size)


@pytest.fixture
def media_image(tmp_path: Path, registry: servers.Registry, digest: str, layer: Path) -> Image:
    """One whose reads fill the file that the download completes."""
    size = layer.stat().st_size
    return Image(tmp_path, registry.repository("a/b"), digest, size, "download")


@pytest.fixture(autouse=True)
def no_random_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.download.random.random", lambda: 0.0)


def downloads(device: Device) -> Downloads:
    assert device.downloads is not None
    return device.downloads


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def check(device: Device) -> None:
    for at in range(0, DISK_BYTES, 1 << 20):
        assert device.read(at, 1 << 20) == RAW[at : at + (1 << 20)]


def test_readers_see_nothing_of_a_download(image: Image, layer: Path) -> None:
    with image.open() as device:
        stop, wrong, count = threading.Event(), [], [0]

        def read(seed: int) -> None:
            order = random.Random(seed)
            while not stop.is_set():
                at = order.randrange(DISK_BYTES - 9000)
                if device.read(at, 9000) != RAW[at : at + 9000]:
                    wrong.append(at)
                count[0] += 1

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        downloads(device).join()
        before = count[0]
        until(lambda: count[0] > before + 100)
        stop.set()
        for thread in threads:
            thread.join()
        [state] = downloads(device).progress()
        assert (state.state, state.done_bytes, state.size_bytes) == ("done", image.size, image.size)
        shown = device.statistics()["layers"][0]["download"]
        assert shown == {"state": "done", "done_bytes": image.size, "error": ""}
        assert wrong == [] and device.blobs[0].local == str(image.dir / "overlaybd.commit")
        requests = device.blobs[0].stats()["requests"]
        check(device)
        assert device.blobs[0].stats()["requests"] == requests, "the registry is asked no more"
    assert names(image.dir) == ["overlaybd.commit"]
    assert (image.dir / "overlaybd.commit").read_bytes() == layer.read_bytes()
    with image.open() as device:
        assert device.blobs == {}, "the next time it is a local layer"
        check(device)


PROGRAM = """
import sys, random, obd
random.random = lambda: 0.0
device = obd.open(sys.argv[1], sys.argv[2])
print("open", flush=True)
sys.stdin.read()
"""


def start(image: Image, **download: Any) -> "subprocess.Popen[str]":
    """Another process that has the image open."""
    command = [sys.executable, "-c", PROGRAM, str(image.config(**download)), str(image.service)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "open\n"
    return process


def recorded(image: Image) -> int:
    try:
        return int((image.dir / ".download.progress").read_text().split()[2])
    except (FileNotFoundError, IndexError):  # or it is just being written for the first time
        return 0


def test_under_obd_serve(image: Image) -> None:
    config = image.config(maxMBps=40)
    with serving(config, "--nbd", "127.0.0.1:0", "--service", image.service) as (process, uri):
        copy = ["nbdcopy", uri, str(image.home / "during")]
        subprocess.run(copy, check=True, capture_output=True)
        until((image.dir / "overlaybd.commit").exists)
        subprocess.run([*copy[:-1], str(image.home / "after")], check=True, capture_output=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0
        assert process.stderr is not None and process.stderr.read() == b""
    for name in ("during", "after"):
        assert (image.home / name).read_bytes() == RAW
    assert names(image.dir) == ["overlaybd.commit"]


def test_killed_and_resumed(image: Image) -> None:
    with start(image, maxMBps=8) as process:
        until(lambda: recorded(image) > 4 << 20)
        process.send_signal(signal.SIGKILL)
    done = recorded(image)
    # What a loss of power may leave of the bytes that were not recorded.
    with (image.dir / ".download").open("r+b") as file:
        file.seek(done)
        file.write(os.urandom(image.size - done))
    with image.open() as device:
        downloads(device).join()
        assert device.blobs[0].local
        # The first chunk and the index are read when the device opens.
        assert device.blobs[0].stats()["fetched_bytes"] <= image.size - done + (2 << 20)
        check(device)


def test_reads_and_the_download_fill_one_file(media_image: Image, layer: Path) -> None:
    image = media_image
    with image.open(delay=1000) as device:
        assert device.read(8 << 20, 4 << 20) == RAW[8 << 20 : 12 << 20]
    with image.open() as device:
        downloads(device).join()
        [state] = downloads(device).progress()
        assert (state.state, state.error) == ("done", "")
        fetched = device.blobs[0].stats()["fetched_bytes"]
        assert fetched <= image.size - (4 << 20) + (1 << 20), "what was read before is not fetched again"
        check(device)
        assert device.blobs[0].stats()["fetched_bytes"] == fetched
        assert device.blobs[0].local == str(image.dir / "overlaybd.commit")
    assert names(image.dir) == ["overlaybd.commit"]
    assert (image.dir / "overlaybd.commit").read_bytes() == layer.read_bytes()


def test_a_file_in_use_by_another_cache_is_left_alone(image: Image, media_image: Image) -> None:
    """Two host configurations that differ in cacheType, by mistake or on the way from one to the other."""
    with start(media_image, enable=False) as other:
        image.service.write_text(
            json.dumps({"cacheConfig": {"cacheType": "file", "cacheDir": str(image.home)}})
        )
        with image.open() as device:
            until(lambda: downloads(device).progress()[0].state == "busy")
            check(device)
        assert (image.dir / ".download.map").exists() and not (image.dir / "overlaybd.commit").exists()
        other.communicate("")


def test_closing_keeps_what_has_come(image: Image) -> None:
    with image.open(maxMBps=2) as device:
        worker = downloads(device)
        until(lambda: worker.progress()[0].done_bytes > 1 << 20)
    worker.join()  # closing waits for a slow disk only for a while
    assert recorded(image) > 1 << 20
    assert names(image.dir) == [".download", ".download.progress"]


def test_two_processes_at_one_layer(image: Image) -> None:
    with start(image, maxMBps=4) as process:
        until(lambda: (image.dir / ".download").exists())
        with image.open() as device:
            until(lambda: downloads(device).progress()[0].state == "busy")
            fetched = device.blobs[0].stats()["fetched_bytes"]
            downloads(device).join()
            assert device.blobs[0].local == str(image.dir / "overlaybd.commit")
            assert device.blobs[0].stats()["fetched_bytes"] == fetched, "only one of them downloads"
            check(device)
        process.communicate("")
    assert names(image.dir) == ["overlaybd.commit"]


def test_two_devices_of_one_process(image: Image) -> None:
    with image.open() as first, image.open() as second:
        for device in (first, second):
            downloads(device).join()
            assert device.blobs[0].local
            check(device)
        both = sum(device.blobs[0].stats()["fetched_bytes"] for device in (first, second))
        assert both <= image.size + (4 << 20)


def test_a_file_damaged_after_the_switch(image: Image, caplog: pytest.LogCaptureFixture) -> None:
    with image.open() as device:
        downloads(device).join()
        path = image.dir / "overlaybd.commit"
        data = bytearray(path.read_bytes())
        for at in range(100_000, len(data) - 100_000, 50_000):
            data[at] ^= 1
        path.write_bytes(data)
        check(device)
        assert device.blobs[0].local is None
    assert caplog.text.count("the local file failed, reads go to the registry again") == 1


def test_a_bad_file_in_place_is_mended(image: Image, layer: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, bad = image.dir / "overlaybd.commit", bytes(image.size)
    path.write_bytes(bad)
    with image.open() as device:
        downloads(device).join()
        assert path.read_bytes() == layer.read_bytes()
        check(device)
        assert device.blobs[0].local == str(path)
    assert (image.dir / "overlaybd.commit.bad").read_bytes() == bad
    assert "renamed to overlaybd.commit.bad" in caplog.text


class Liar(servers.QuietHandler):
    """A registry of one blob with some bytes wrong, as long as `wrong` says so; unavailable while `down`."""

    data = b""
    wrong = 0
    down = False
    served = 0

    def do_GET(self) -> None:
        kind = type(self)
        if kind.down:
            self.answer(503)
            return
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last), len(kind.data) - 1)
        body = bytearray(kind.data[start : end + 1])
        if kind.wrong > 0 and start <= (at := len(kind.data) // 2) <= end:
            kind.wrong -= 1
            body[at - start] ^= 1
        kind.served += len(body)
        self.answer(206, bytes(body), {"Content-Range": f"bytes {start}-{end}/{len(kind.data)}"})


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[tuple[type[Liar], Image]]:
    """An uncompressed layer, whose wrong bytes only the digest tells."""
    (tmp_path / "raw").write_bytes(RAW[: 4 << 20])
    ok("obd", "import", tmp_path / "raw", tmp_path / "file")

    class OneLiar(Liar):
        data = (tmp_path / "file").read_bytes()

    kind = OneLiar
    name = "sha256:" + hashlib.sha256(kind.data).hexdigest()
    with servers.serving(kind) as url:
        yield kind, Image(tmp_path / "image", f"{url}/v2/a", name, len(kind.data))


@pytest.mark.parametrize(("wrong", "state"), [(1, "done"), (1_000_000, "failed")])
def test_wrong_bytes_in_the_registry(
    liar: tuple[type[Liar], Image], wrong: int, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    kind, image = liar
    kind.wrong = wrong
    with image.open() as device:
        downloads(device).join()
        [found] = downloads(device).progress()
        assert found.state == state
        served = kind.served
        assert served >= 2 * image.size, "everything was fetched again"
        assert served <= 2 * image.size + (2 << 20), "once"
        if state == "failed":
            assert "the registry's bytes are sha256:" in found.error and image.digest in found.error
            assert caplog.text.count("is not downloaded, it stays remote") == 1
            assert device.blobs[0].local is None and names(image.dir) == []
        else:
            assert names(image.dir) == ["overlaybd.commit"]


def test_a_registry_that_comes_back(
    liar: tuple[type[Liar], Image], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kind, image = liar
    monkeypatch.setattr("cache.download._PAUSE_S", 0.01)
    with image.open(maxMBps=2, tryCnt=1) as device:
        until(lambda: downloads(device).progress()[0].done_bytes > 1 << 20)
        kind.down = True
        # In one look: it tries again at once.
        until(lambda: (found := downloads(device).progress()[0]).state == "paused" and "503" in found.error)
        served = kind.served
        kind.down = False
        downloads(device).join()
        assert device.blobs[0].local, "few attempts are no reason to give up what may pass"
        assert kind.served - served <= image.size - (1 << 20)
    assert caplog.text.count("goes on when it can") == 1


def test_what_trying_again_does_not_mend(image: Image, caplog: pytest.LogCaptureFixture) -> None:
    config = image.config(delay=0)
    document = json.loads(config.read_text())
    document["lowers"][0]["dir"] = str(image.home / "missing")
    config.write_text(json.dumps(document))
    with obd.open(config, str(image.service)) as device:
        downloads(device).join()
        [found] = downloads(device).progress()
        assert found.state == "failed" and "missing" in found.error
        check(device)
    assert caplog.text.count("is not downloaded, it stays remote") == 1


def test_closing_ends_the_delay(image: Image) -> None:
    with image.open(delay=100_000) as device:
        worker = downloads(device)
        assert worker.progress()[0].state == "waiting"
    assert not worker._thread.is_alive()
