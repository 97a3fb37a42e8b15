"""A file system in four layers, each stored in another way, and what is in it."""

import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import obdcore
from tests.e2e.disks import MIB

DISK_BYTES = 48 * MIB
BLOCK_BYTES = 4096


@dataclass(frozen=True)
class Layered:
    """Layers, bottom first; the disk that they make; the files in it by name."""

    layers: list[Path]
    disk: Path
    files: dict[str, bytes]


def build(home: Path) -> Layered:
    """ext4 on a zstd zfile in a tar; then files added and replaced, on an lz4 zfile and two plain layers."""
    numbers = random.Random(11)
    files = {f"f{number}": numbers.randbytes(numbers.randrange(1, 3 * MIB)) for number in range(4)}
    files["text"] = b"the same line again and again\n" * 60_000
    (home / "tree").mkdir(parents=True)
    for name, content in files.items():
        (home / "tree" / name).write_bytes(content)
    disk = home / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    options = ["-q", "-t", "ext4", "-E", "lazy_itable_init=0", "-d", str(home / "tree")]
    subprocess.run(["mke2fs", *options, str(disk)], check=True)
    layers = [home / "layer0"]
    with disk.open("rb") as source, layers[0].open("xb") as target:
        zstd = {"algorithm": "zstd", "block_size": 16384}
        obdcore.lsmt_import(source.fileno(), DISK_BYTES, target.fileno(), compress=zstd, tar=True)
    for level, (compress, tar) in enumerate((({"algorithm": "lz4"}, False), (None, True), (None, False)), 1):
        before = disk.read_bytes()
        added = numbers.randbytes(2 * MIB + level)
        (home / "added").write_bytes(added)
        changes = f"rm f{level}\nwrite {home / 'added'} f{level}\nwrite {home / 'added'} new{level}\n"
        subprocess.run(
            ["debugfs", "-w", "-f", "-", str(disk)], input=changes.encode(), check=True, capture_output=True
        )
        files[f"f{level}"] = files[f"new{level}"] = added
        layer = home / f"layer{level}"
        _commit(layer, layers, before, disk.read_bytes(), compress, tar)
        layers.append(layer)
    return Layered(layers, disk, files)


def _commit(
    layer: Path, lowers: list[Path], before: bytes, after: bytes, compress: dict[str, str] | None, tar: bool
) -> None:
    """What makes `after` of `before`, as a layer."""
    pair = (f"{layer}.data", f"{layer}.index")
    obdcore.lsmt_create(*pair, size=0)
    image = obdcore.Image([str(lower) for lower in lowers], pair)
    for at in range(0, len(after), BLOCK_BYTES):
        block = after[at : at + BLOCK_BYTES]
        if block != before[at : at + BLOCK_BYTES]:
            image.write_at(at, block)
    image.close()
    with layer.open("xb") as target:
        obdcore.lsmt_commit(*pair, target.fileno(), compress=compress, tar=tar)
