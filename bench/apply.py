"""overlaybd-apply of a tar of 500 MB into a new layer, against `tar x` onto a loop device with a sync."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
SOURCE = Path("/usr/lib")
WANTED_BYTES = 500 * 10**6
GIB = 4
ROUNDS = 5


def pack(path: Path) -> int:
    """A tar of parts of the host's libraries, as large as wanted or as there are; its length."""
    with path.open("wb") as out:
        command = ["tar", "-C", "/", "-cf", "-", str(SOURCE)[1:]]
        packer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert packer.stdout is not None
        while out.tell() < WANTED_BYTES and (piece := packer.stdout.read(1 << 20)):
            out.write(piece)
        packer.kill()
        packer.wait()
    return _cut_to_members(path)


def _cut_to_members(path: Path) -> int:
    """Cuts a tar behind the last member that is whole, and ends it; its length."""
    with tarfile.open(path) as archive:
        end = 0
        try:
            for member in archive:
                end = member.offset
        except tarfile.ReadError:
            pass
    with path.open("r+b") as file:
        file.truncate(end)
        file.seek(end)
        file.write(bytes(1024))
    return path.stat().st_size


def unpack(archive: Path, home: Path) -> float:
    """Seconds of `tar x` onto a new ext4 on a loop device, and of making it durable."""
    image, point = home / "loop.img", home / "mount"
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(GIB << 30)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1", image], check=True)
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        os.sync()
        begin = time.perf_counter()
        subprocess.run(["tar", "-C", point, "-xf", archive], check=True)
        subprocess.run(["sync", "-f", point], check=True)
        with image.open("rb") as file:
            os.fsync(file.fileno())
        return time.perf_counter() - begin
    finally:
        subprocess.run(["umount", point], check=True)


def apply(archive: Path, home: Path) -> float:
    """Seconds of a whole run of the command, into a new layer."""
    layer = home / "layer"
    shutil.rmtree(layer, ignore_errors=True)
    layer.mkdir()
    pair = {"data": str(layer / "data"), "index": str(layer / "index")}
    config = layer / "config.json"
    config.write_text(json.dumps({"lowers": [], "upper": pair}))
    create = [str(BIN / "overlaybd-create"), pair["data"], pair["index"], str(GIB), "--mkfs"]
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL)
    os.sync()
    command = [BIN / "overlaybd-apply", archive, config]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def row(name: str, value: float | None, unit: str, peer: str | None, ratio: float | None) -> None:
    """Prints a measurement."""
    print(json.dumps({"name": name, "value": value, "unit": unit, "peer": peer, "ratio": ratio}))


def main() -> None:
    """Takes turns, so that what else the machine does hits both alike; the median of the ratios counts."""
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        row("apply.speed", None, "MB/s", "needs root and loop devices", None)
        row("apply.memory", None, "MiB", "needs root and loop devices", None)
        return
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        archive = home / "layer.tar"
        size = pack(archive)
        rounds: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            took = apply(archive, home)
            if not rounds:
                # The largest of all children so far, of which only this one is of any size.
                memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            peer = unpack(archive, home)
            print(f"tar x {peer:.2f} s, apply {took:.2f} s", file=sys.stderr)
            rounds.append((peer / took, took))
    ratio, took = sorted(rounds)[ROUNDS // 2]
    row("apply.speed", size / took / 1e6, "MB/s", "tar x, sync", ratio)
    row("apply.memory", memory / 1024, "MiB", None, None)


if __name__ == "__main__":
    main()
