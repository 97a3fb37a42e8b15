"""ext4 on a device of ours: files are written and synced through the kernel, and the power is lost.

    python -m tests.sweep.ext4 [--every N] [--more N] [--layouts log,sparse]

The device is served by FUSE to a loop device, so that the kernel's file system does as it always does. What
is done to the upper's files is recorded; each state that they may be left in is opened, and the file system
there must recover with all that was synced.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import obd
import obdcore
from tests.e2e.test_fuse_loop import loop, mounted, mounted_on
from tests.sweep import shim
from tests.sweep.children import Say, child, wrongs
from tests.sweep.oplog import Disk, Op, State, materialize, parse
from tests.sweep.setting import ensure_shim, setting
from tests.sweep.world import copy_tree, write_sparse

_DEVICE_BYTES: Final = 24 << 20
_FILES: Final = 12
# e2fsck: all was right, or is now.
_MENDED: Final = (0, 1)


def main() -> int:
    """Tries states, prints what is wrong and counts; 0 if nothing is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--more", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layouts", default="log,sparse")
    wanted = parser.parse_args()
    failures = 0
    with setting() as (home, _):
        for layout in wanted.layouts.split(","):
            recorded = Recorded(home, sparse=layout == "sparse")
            begin = time.monotonic()
            for line in recorded.run(wanted.every, wanted.more, wanted.seed):
                failures += 1
                print(f"{layout}: {line}", flush=True)
            took = time.monotonic() - begin
            print(
                f"{layout}: {recorded.entries} entries, {recorded.tried} states in {took:.1f} s, "
                f"{recorded.checked} synced files read back",
                flush=True,
            )
    print(f"{failures} failures")
    return 1 if failures else 0


class Recorded:
    """A file system that was written to, and what may be left of it."""

    def __init__(self, home: Path, *, sparse: bool) -> None:
        self._home: Final = home
        self._place: Final = home / f"ext4-{'sparse' if sparse else 'log'}"
        self._settled: Final = home / f"{self._place.name}-settled"
        self._place.mkdir()
        upper = {"data": str(self._place / "u"), "index": str(self._place / "u.index")}
        obdcore.lsmt_create(upper["data"], upper["index"], size=_DEVICE_BYTES, sparse=sparse)
        (self._place / "config.json").write_text(json.dumps({"upper": upper}))
        raw = home / "raw"
        raw.write_bytes(b"")
        os.truncate(raw, _DEVICE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", raw], check=True)
        with obd.open(self._place / "config.json") as device, raw.open("rb") as source:
            obdcore.DiskImage(source.fileno()).copy_to(device.native)
        copy_tree(self._place, self._settled)
        self._disk: Final = Disk(self._settled)
        self._ops: Final = self._record()
        self.entries: Final = len(self._ops)
        self.tried = 0
        self.checked = 0

    def _record(self) -> list[Op]:
        log, mount = self._home / "log", self._home / "mount"
        self._disk.learn({path.stat().st_ino: path.name for path in self._place.iterdir()})

        def work(_: Say) -> None:
            tool = shim.Shim()
            with obd.open(self._place / "config.json") as image:
                tool.record(str(self._place), log, shim.DATA | shim.TELL)
                with (
                    mounted(self._home, disk=image.native) as (point, _server),
                    loop(point / "disk") as device,
                ):
                    with mounted_on(mount, device, "-t", "ext4"):
                        _write_files(mount, tool)
                    mount.rmdir()
                (self._home / "fuse").rmdir()
                tool.disarm()

        said, status = child(work)
        assert status == 0, said
        return parse(log.read_bytes())

    def run(self, step: int, more: int, seed: int) -> list[str]:
        """What is wrong with the states at every `step`-th change, `more` random ones at each."""
        lines: list[str] = []
        numbers = random.Random(seed)
        # Contents that a file may have: None for none.
        files: dict[str, set[str | None]] = {}
        changes = 0
        for cut, op in enumerate(self._ops):
            self._disk.apply(op)
            if op.kind == "note":
                name, *possible = json.loads(op.path)
                files[name] = set(possible)
            changes += op.kind in ("write", "sync", "punch", "note")
            if op.kind in ("open", "opened") or changes % step:
                continue
            for state in self._disk.states(cut, numbers, more):
                found = self._try(state, files)
                lines += [f"after {cut} ({op.kind} {op.path}), {state.how}: {what}" for what in found]
        return lines

    def _try(self, state: State, files: dict[str, set[str | None]]) -> list[str]:
        """What is wrong with a state once the file system has recovered."""
        self.tried += 1
        shutil.rmtree(self._place)
        self._place.mkdir()
        materialize(state, self._place)
        raw = self._home / "raw"

        def run(_: Say) -> None:
            with obd.open(self._place / "config.json") as device:
                write_sparse(raw, device.read(0, _DEVICE_BYTES))

        said, _ = child(run)
        if found := wrongs(said):
            return found
        mend = subprocess.run(["e2fsck", "-fy", raw], capture_output=True, text=True, check=False)
        if mend.returncode not in _MENDED or "UNEXPECTED" in mend.stdout:
            return [f"e2fsck -fy: {mend.returncode}: {_short(mend.stdout)}"]
        look = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, text=True, check=False)
        if look.returncode != 0:
            return [f"e2fsck -fn: {look.returncode}: {_short(look.stdout)}"]
        return [f"{what}; e2fsck said: {_short(mend.stdout)}" for what in self._wrong_files(raw, files)]

    def _wrong_files(self, raw: Path, files: dict[str, set[str | None]]) -> list[str]:
        out = self._home / "out"
        out.mkdir()
        script = "".join(f"dump /{name} {out / name}\n" for name in files)
        subprocess.run(["debugfs", "-f", "-", raw], input=script.encode(), capture_output=True, check=False)
        found = []
        for name, possible in files.items():
            self.checked += 1
            digest = _digest((out / name).read_bytes()) if (out / name).exists() else None
            if digest not in possible:
                found.append(f"{name} is {'lost' if digest is None else 'another'}, though it was synced")
        shutil.rmtree(out)
        return found


def _write_files(mount: Path, tool: shim.Shim) -> None:
    """Creates, replaces and removes files as careful programs do, and tells what may be there after that."""
    numbers = random.Random(4)
    there: dict[str, str | None] = {}

    def sync() -> None:
        fd = os.open(mount, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    for number in range(_FILES):
        name = f"f{number % 8}"
        content = numbers.randbytes(numbers.choice((10, 5000, 40_000, 300_000)))
        digest = _digest(content)
        tool.note(json.dumps([name, there.get(name), digest]))
        with (mount / "draft").open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        (mount / "draft").rename(mount / name)
        sync()
        there[name] = digest
        tool.note(json.dumps([name, digest]))
        if number % 5 == 4:
            gone = f"f{number - 3}"
            tool.note(json.dumps([gone, there[gone], None]))
            (mount / gone).unlink()
            sync()
            there[gone] = None
            tool.note(json.dumps([gone, None]))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _short(text: str) -> str:
    return " | ".join(text.split("\n"))[:600]


if __name__ == "__main__":
    ensure_shim("tests.sweep.ext4")
    sys.exit(main())
