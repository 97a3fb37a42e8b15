"""`obd pull --full` of an image of three layers into the cache, against as many curls writing files."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from obd.push import Repository
from obd.registry import Registry
from tests.e2e import servers

BIN = Path(sys.executable).parent
LAYERS = 3
LAYER_BYTES = 256 << 20
ROUNDS = 5


def make(path: Path) -> None:
    """A file of bytes that do not compress."""
    with path.open("wb") as file:
        for _ in range(LAYER_BYTES // (16 << 20)):
            file.write(os.urandom(16 << 20))


def curls(urls: list[str], home: Path) -> float:
    """Seconds that curls take for all blobs at once."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    begin = time.perf_counter()
    running = [
        subprocess.Popen(["curl", "-sSf", "-o", str(home / str(n)), url]) for n, url in enumerate(urls)
    ]
    failed = [process for process in running if process.wait() != 0]
    took = time.perf_counter() - begin
    assert not failed
    return took


def pull(reference: str, home: Path) -> float:
    """Seconds of a whole run of the command, whose cache is empty."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    service = home / "overlaybd.json"
    cache = {"cacheType": "file", "cacheDir": str(home / "cache"), "cacheSizeGB": 4}
    service.write_text(json.dumps({"cacheConfig": cache}))
    command = [str(BIN / "obd"), "pull", "--full", reference, "--service", str(service)]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    """Takes turns, so that what else the machine does hits both alike; the median of the ratios counts."""
    with tempfile.TemporaryDirectory() as name, servers.Registry(Path(name) / "registry") as server:
        home, url = Path(name), server.repository("bench/pull")
        repository, layers = Repository(Registry(), url), []
        for _ in range(LAYERS):
            make(home / "layer")
            layers.append(repository.push_file(str(home / "layer")))
        repository.push_manifest("v1", layers)
        urls = [f"{url}/blobs/{layer.digest}" for layer in layers]
        rounds = []
        for _ in range(ROUNDS):
            peer = curls(urls, home / "curl")
            took = pull(f"{server.host}/bench/pull:v1", home / "pull")
            print(f"curls {peer:.2f} s, pull {took:.2f} s", file=sys.stderr)
            rounds.append((peer / took, took))
        ratio, took = sorted(rounds)[ROUNDS // 2]
        row = {
            "name": "pull.full",
            "value": LAYERS * LAYER_BYTES / took / 1e6,
            "unit": "MB/s",
            "peer": f"{LAYERS} curls",
            "ratio": ratio,
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
