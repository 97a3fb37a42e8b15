"""Images for rigs: two remote layers of sectors that tell what they are, and an upper of either kind."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obdcore
from obd.push import Repository
from obd.registry import Registry as Client
from tests.e2e.servers import Registry
from tests.rigs.stamps import BASE, SECTOR, stamps

RUN_BYTES = 64 << 10  # what lies in the one layer, then in the other
KINDS = ("log", "sparse")
SEED = 1


@dataclass(frozen=True)
class Image:
    """A configuration of an image, and where all of it lies."""

    directory: Path
    config: Path
    service: Path
    size: int


class Store:
    """A registry with layers (of stamps, if no others are named), and the cache of devices upon them."""

    def __init__(self, directory: Path, size: int, *, layers: Sequence[Path] = (), **service: Any) -> None:
        self.size = size
        self.cache = directory / "cache"
        self.registry = Registry(directory / "registry")
        self.url = self.registry.repository("team/app")
        repository = Repository(Client(), self.url)
        self.lowers = []
        for path in layers or _layers(directory, size):
            blob = repository.push_file(str(path))
            self.lowers.append({"digest": blob.digest, "size": path.stat().st_size})
        cache = {"cacheType": "file", "cacheDir": str(self.cache), "cacheSizeGB": 1, "refillSize": 65536}
        self.settings = {
            "logConfig": {"logPath": ""},
            "enableAudit": False,
            "cacheConfig": cache,
            "outageTimeout": 300,
            **service,
        }
        self.service = directory / "overlaybd.json"
        self.service.write_text(json.dumps(self.settings))

    def image(self, directory: Path, kind: str = "", **settings: Any) -> Image:
        """An image upon the layers, with an upper of that kind in `directory` if one is named."""
        directory.mkdir(parents=True, exist_ok=True)
        document: dict[str, Any] = {"repoBlobUrl": f"{self.url}/blobs", "lowers": self.lowers, **settings}
        if kind:
            upper = {"data": str(directory / "data"), "index": str(directory / "index")}
            obdcore.lsmt_create(*upper.values(), size=0, sparse=kind == "sparse")
            document["upper"] = upper
        config = directory / "config.json"
        config.write_text(json.dumps(document))
        return Image(directory, config, self.service, self.size)

    def delete_cache(self) -> None:
        """Removes what is cached, under those who use it."""
        for entry in list(self.cache.iterdir()) if self.cache.exists() else ():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.registry.stop()


def _layers(directory: Path, size: int) -> list[Path]:
    """Layers of a device that holds stamps of the generation `BASE`; only both together are right."""
    right = stamps(SEED, 0, size // SECTOR, BASE)
    below, above = directory / "below", directory / "above"
    wrong = bytearray(right)
    places = range(0, size, 4 * RUN_BYTES)
    for at in places:
        wrong[at : at + RUN_BYTES] = b"below".ljust(8) * (len(right[at : at + RUN_BYTES]) // 8)
    (raw := directory / "raw").write_bytes(wrong)
    with raw.open("rb") as source, below.open("xb") as target:
        obdcore.lsmt_import(source.fileno(), size, target.fileno(), compress={"algorithm": "lz4"})
    raw.unlink()
    pair = (f"{above}.data", f"{above}.index")
    obdcore.lsmt_create(*pair, size=0)
    image = obdcore.Image([str(below)], pair)
    for at in places:
        image.write_at(at, right[at : at + RUN_BYTES])
    image.close()
    with above.open("xb") as target:
        obdcore.lsmt_commit(*pair, target.fileno(), compress={"algorithm": "zstd"}, tar=True)
    return [below, above]
