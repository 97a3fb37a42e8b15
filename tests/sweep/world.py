"""What a script of the sweep works on: a directory with an image, and a registry that has its lower."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import obdcore
from tests.e2e.servers import QuietHandler, serve
from tests.sweep.model import make_base

DEVICE_BYTES: Final = 1 << 20
_LOWER_BYTES: Final = 640 << 10
CHUNK_BYTES: Final = 128 << 10
BASE: Final = make_base(_LOWER_BYTES)


def make_template(home: Path, url: str, *, sparse: bool) -> Path:
    """A directory to be copied for each run; the image's files are named by place holders until `settle`."""
    template = home / f"template-{'sparse' if sparse else 'log'}"
    (template / "layer").mkdir(parents=True)
    (template / "cache").mkdir()
    (template / "raw").write_bytes(BASE)
    lower = home / "lower"
    if not lower.exists():
        with (template / "raw").open("rb") as source, lower.open("xb") as target:
            size = len(BASE)
            obdcore.lsmt_import(
                source.fileno(), size, target.fileno(), compress={"algorithm": "lz4"}, tar=True
            )
    digest = "sha256:" + hashlib.sha256(lower.read_bytes()).hexdigest()
    obdcore.lsmt_create(
        str(template / "u0.data"), str(template / "u0.index"), size=DEVICE_BYTES, sparse=sparse
    )
    cache = {"cacheType": "file", "cacheDir": "@/cache", "cacheSizeGB": 1, "refillSize": CHUNK_BYTES}
    (template / "service.json").write_text(json.dumps({"cacheConfig": cache}))
    document = {
        "repoBlobUrl": f"{url}/v2/a/blobs",
        "lowers": [{"digest": digest, "size": lower.stat().st_size, "dir": "@/layer"}],
        "upper": {"data": "@/u0.data", "index": "@/u0.index"},
        "resultFile": "@/result",
        "download": {"enable": True, "delay": 0, "delayExtra": 1, "maxMBps": 0, "blockSize": 131072},
    }
    (template / "config.json").write_text(json.dumps(document))
    return template


def write_sparse(path: Path, content: bytes) -> None:
    """Makes a file in which blocks of zeros are holes, as they are where nothing was written."""
    with path.open("wb", buffering=0) as file:
        file.truncate(len(content))
        for at in range(0, len(content), 4096):
            part = content[at : at + 4096]
            if part.strip(b"\0"):
                os.pwrite(file.fileno(), part, at)


def copy_tree(source: Path, target: Path) -> None:
    """Copies a directory; `shutil.copytree` would fill the holes of its files."""
    target.mkdir()
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            (target / path.relative_to(source)).mkdir()
        else:
            write_sparse(target / path.relative_to(source), path.read_bytes())


def settle(template: Path, place: Path) -> None:
    """Makes `place` a world of its own."""
    copy_tree(template, place)
    for name in ("config.json", "service.json"):
        path = place / name
        path.write_text(path.read_text().replace("@", str(place)))


class RegistryProcess:
    """A registry in a process of its own, which has the files of a directory by their digests."""

    def __init__(self, home: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.sweep.world", str(home)],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.url: Final = self._process.stdout.readline().decode().strip()

    def stop(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


def _handler(home: Path) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def do_GET(self) -> None:
            blob = home / self.path.rpartition(":")[2]
            data = (blob if blob.is_file() else home / "lower").read_bytes()
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if "blobs" not in self.path or not found:
                self.answer(404)
                return
            first, last = int(found[1]), min(int(found[2]), len(data) - 1)
            self.answer(206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    return Handler


def main() -> None:
    """Serves until its stdin ends."""
    server = serve(_handler(Path(sys.argv[1])))
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
