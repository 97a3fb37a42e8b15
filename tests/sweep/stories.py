"""The scripts of the fault sweep: uppers, caches, commands, the snapshotter, devices, containers."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import obdcore
from tests.sweep.containers import Contained, make_contained
from tests.sweep.devices import Attached, Mounted, make_attached, make_mounted
from tests.sweep.images import Images, make_images
from tests.sweep.model import SECTOR, Model
from tests.sweep.pushes import Pushes, make_pushes
from tests.sweep.reading import Reading
from tests.sweep.script import Run, Say
from tests.sweep.snapshots import Snapshotter, make_snapshots
from tests.sweep.world import BASE, CHUNK_BYTES, DEVICE_BYTES, make_template


class Script(Protocol):
    """One run: with a fault, and the one after it, without."""

    def story(self) -> None:
        """All of it; a step that fails is told of, and the next is done."""

    def clean(self) -> None:
        """Must succeed throughout."""


@dataclass(frozen=True, slots=True)
class Story:
    """`template` makes the directory that each run has a copy of, `run` the run there.

    `machine`: devices, mounts and processes count, of all processes that the run starts.
    """

    template: Callable[[Path, str], Path]
    run: Callable[[str, Say, Model], Script]
    machine: bool = False


def _reading(home: Path, url: str, *, name: str, lower: dict[str, object], **service: object) -> Path:
    """An image without upper, whose lower is read by that service."""
    template = home / f"template-{name}"
    for directory in ("layer", "cache", "gzip"):
        (template / directory).mkdir(parents=True)
    (template / "service.json").write_text(json.dumps(service))
    document = {"repoBlobUrl": f"{url}/v2/a/blobs", "lowers": [lower], "resultFile": "@/result"}
    (template / "config.json").write_text(json.dumps(document))
    return template


def _cached(kind: str, home: Path, url: str) -> Path:
    """The lower of the other stories, by another cache."""
    make_template(home / kind, url, sparse=False)
    data = (home / kind / "lower").read_bytes()
    if not (home / "lower").exists():
        (home / "lower").write_bytes(data)
    lower = {"digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data), "dir": "@/layer"}
    cache = {"cacheType": kind, "cacheDir": "@/cache", "cacheSizeGB": 1, "refillSize": CHUNK_BYTES}
    return _reading(home, url, name=kind, lower=lower, cacheConfig=cache)


def _turbo(home: Path, url: str) -> Path:
    """A layer of turboOCI: metadata here, its target, a gzip, in the registry."""
    work = home / "turbo"
    work.mkdir()
    packer = zlib.compressobj(1, wbits=31)
    target = packer.compress(BASE) + packer.flush()
    (work / "target").write_bytes(target)
    with (work / "target").open("rb") as source, (work / "gzip.meta").open("xb") as output:
        obdcore.gzip_index(source.fileno(), output.fileno())
    upper = str(work / "data"), str(work / "index")
    obdcore.lsmt_create(*upper, size=DEVICE_BYTES, turbo=True)
    (work / "nothing").touch()
    image = obdcore.Image([], (*upper, str(work / "nothing")))
    image.map_remote(0, len(BASE), 0)
    image.write_at(len(BASE), bytes(SECTOR))
    image.close()
    with (work / "fs.meta").open("xb") as output:
        obdcore.lsmt_commit(*upper, output.fileno(), turbo=True, compress={"algorithm": "lz4"})
    digest = hashlib.sha256(target).hexdigest()
    (home / digest).write_bytes(target)
    lower: dict[str, object] = {"file": "@/fs.meta", "gzipIndex": "@/gzip.meta"}
    lower |= {"targetDigest": f"sha256:{digest}", "dir": "@/layer"}
    cache = {"cacheSizeGB": 1, "refillSize": CHUNK_BYTES}
    template = _reading(
        home,
        url,
        name="turbo",
        lower=lower,
        cacheConfig={"cacheType": "file", "cacheDir": "@/cache", **cache},
        gzipCacheConfig={"enable": True, "cacheDir": "@/gzip", **cache},
    )
    for name in ("fs.meta", "gzip.meta"):
        (template / name).write_bytes((work / name).read_bytes())
    return template


STORIES: Final[dict[str, Story]] = {
    "log": Story(partial(make_template, sparse=False), partial(Run, sparse=False)),
    "sparse": Story(partial(make_template, sparse=True), partial(Run, sparse=True)),
    "download": Story(partial(_cached, "download"), Reading),
    "ocf": Story(partial(_cached, "ocf"), Reading),
    "turbo": Story(_turbo, Reading),
    "images": Story(make_images, Images),
    "push": Story(make_pushes, Pushes),
    "snapshots": Story(make_snapshots, Snapshotter),
    "attach": Story(make_attached, Attached, machine=True),
    "mount": Story(make_mounted, Mounted, machine=True),
    "run": Story(make_contained, Contained, machine=True),
}
