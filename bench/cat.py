"""A cold `obd cat` of one small file of an image of 1 GiB in a registry: what is fetched for it."""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import obdcore
from tests.e2e import servers

BIN = Path(sys.executable).parent
MIB = 1 << 20
CONTENT_BYTES = 1 << 30
# What a system has besides large files: small ones, in directories.
DIRECTORIES, FILES = 100, 200
WANTED = "share/73/wanted/deep/file.conf"


def grow(top: Path) -> None:
    """A tree of that much content, half of which can be compressed."""
    numbers = random.Random(5)
    for directory in range(DIRECTORIES):
        (top / f"share/{directory}").mkdir(parents=True)
        for file in range(FILES):
            content = numbers.randbytes(16) * numbers.randrange(1, 400)
            (top / f"share/{directory}/file number {file}").write_bytes(content)
    (top / WANTED).parent.mkdir(parents=True)
    (top / WANTED).write_text("key = value\n" * 300)
    (top / "lib").mkdir()
    for number in range(CONTENT_BYTES // (16 * MIB)):
        half = numbers.randbytes(8 * MIB)
        (top / f"lib/{number}.so").write_bytes(half + half[:256] * (8 * MIB // 256))


def sent(log: Path, start: int) -> tuple[int, int]:
    """Requests for blobs, and bytes that they were answered with, by what the registry logged since."""
    rows = re.findall(rb'"GET /v2/\S+/blobs/\S+ HTTP/1.1" 20\d (\d+)', log.read_bytes()[start:])
    return len(rows), sum(map(int, rows))


def main() -> None:
    """Pushes the image, then reads from it with an empty cache."""
    with tempfile.TemporaryDirectory() as name, servers.Registry(Path(name) / "registry") as server:
        home = Path(name)
        grow(home / "top")
        archive = ["tar", "-C", str(home / "top"), "-cf", str(home / "archive.tar"), "."]
        subprocess.run(archive, check=True)
        pair = (str(home / "data"), str(home / "index"))
        obdcore.lsmt_create(*pair, size=64 << 30)
        image = obdcore.Image([], pair)
        obdcore.ext4_create(image)
        with (home / "archive.tar").open("rb") as source:
            obdcore.ext4_apply(image, source.fileno())
        image.close()
        with (home / "layer").open("xb") as target:
            obdcore.lsmt_commit(*pair, target.fileno(), compress={"algorithm": "lz4"}, tar=True)
        reference = f"{server.host}/bench/cat:v1"
        push: list[str | Path] = [BIN / "obd", "push", home / "layer", "--to", reference]
        subprocess.run(push, check=True, stdout=subprocess.DEVNULL)
        size = os.stat(home / "layer").st_size
        service = home / "overlaybd.json"
        cache = {"cacheType": "file", "cacheDir": str(home / "cache"), "cacheSizeGB": 4}
        service.write_text(json.dumps({"cacheConfig": cache}))
        start, begin = server.log.stat().st_size, time.perf_counter()
        cat: list[str | Path] = [BIN / "obd", "cat", f"{reference}:/{WANTED}", "--service", service]
        content = subprocess.run(cat, check=True, stdout=subprocess.PIPE).stdout
        took = time.perf_counter() - begin
        assert content == (home / "top" / WANTED).read_bytes()
        requests, count = sent(server.log, start)
        print(f"{requests} requests in {took:.2f} s, of a layer of {size / MIB:.0f} MiB", file=sys.stderr)
        row = {"name": "cat.fetched", "value": count / MIB, "unit": "MiB", "peer": None, "ratio": None}
        print(json.dumps(row))


if __name__ == "__main__":
    main()
