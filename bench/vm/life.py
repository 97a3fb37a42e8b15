"""The life of TCMU devices: how soon they come and go, what they cost, how soon a dead daemon is replaced."""

import json
import mmap
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import tcmu
from bench.vm import servers
from obdcore import lsmt_import
from tcmu.configfs import Backstore

MIB = 1 << 20
SIZE = 16 * MIB
MANY = 200
ROUNDS = 7
KILLED = 8


def row(name: str, value: float, unit: str, peer: str | None = None, ratio: float | None = None) -> None:
    """Prints a measurement."""
    print(
        json.dumps({"name": f"life.{name}", "value": value, "unit": unit, "peer": peer, "ratio": ratio}),
        flush=True,
    )


def timed(work: Callable[[], Any]) -> float:
    """How long something takes, in seconds."""
    since = time.monotonic()
    work()
    return time.monotonic() - since


def read(disk: Path) -> None:
    """Reads 4 KiB from a disk, past the page cache."""
    with (
        mmap.mmap(-1, 4096) as buffer,
        open(os.open(disk, os.O_RDONLY | os.O_DIRECT), "rb", buffering=0) as file,
    ):
        if file.readinto(buffer) != len(buffer):
            raise OSError(f"{disk} ends too early")


def configuration(directory: Path, layer: Path) -> Path:
    """The configuration of an image that is one layer."""
    directory.mkdir()
    config = directory / "config.json"
    config.write_text(json.dumps({"lowers": [{"file": str(layer)}], "resultFile": str(directory / "result")}))
    return config


class Devices:
    """Devices of one daemon by number, each with a configuration of its own."""

    def __init__(self, here: Path, layer: Path) -> None:
        self._configs = [configuration(here / str(n), layer) for n in range(MANY)]

    def backstore(self, n: int) -> Backstore:
        """The backstore of a device."""
        return Backstore(servers.HBA, f"device-{n}")

    def attach(self, n: int) -> Path:
        """Makes a device, from the first step to the first byte; its disk."""
        backstore = self.backstore(n)
        backstore.create(f"overlaybd/{self._configs[n]}")
        disk = tcmu.Loopback.of(backstore).create(backstore)
        read(disk)
        return disk

    def detach(self, n: int) -> None:
        """Removes a device."""
        tcmu.Loopback.of(self.backstore(n)).remove()
        self.backstore(n).remove()

    @contextmanager
    def some(self, count: int) -> Iterator[list[Path]]:
        """So many devices, made at once; their disks."""
        with ThreadPoolExecutor(count) as pool:
            yield list(pool.map(self.attach, range(count)))
            list(pool.map(self.detach, range(count)))


def of_the_kernel(raw: Path) -> None:
    """Makes a device of the kernel's own by the same steps, and reads from it."""
    backstore = servers.Fileio(servers.HBA, "fileio")
    backstore.make(f"fd_dev_name={raw},fd_dev_size={SIZE}")
    read(tcmu.Loopback.of(backstore).create(backstore))


def without(raw: Path) -> None:
    """Removes it."""
    backstore = servers.Fileio(servers.HBA, "fileio")
    tcmu.Loopback.of(backstore).remove()
    backstore.remove()


def measure_attach(devices: Devices, raw: Path) -> None:
    """One device after another, and the kernel's own in between."""
    ours, peers = [], []
    for _ in range(ROUNDS):
        ours.append(timed(partial(devices.attach, 0)))
        devices.detach(0)
        peers.append(timed(partial(of_the_kernel, raw)))
        without(raw)
    ratio = median(a / b for a, b in zip(ours, peers, strict=True))
    row("attach", 1000 * median(ours), "ms", f"the same steps for fileio: {1000 * median(peers):.1f}", ratio)


def measure_many(devices: Devices, daemon: servers.Daemon) -> None:
    """Many devices at once, and what they cost while they are idle."""
    with devices.some(1):
        one = daemon.resident_bytes()
    row("daemon_mib", one / MIB, "MiB")
    with ThreadPoolExecutor(MANY) as pool:
        row(f"attach_{MANY}_s", timed(lambda: list(pool.map(devices.attach, range(MANY)))), "s")
        row("device_mib", (daemon.resident_bytes() - one) / (MANY - 1) / MIB, "MiB")
        row(f"detach_{MANY}_s", timed(lambda: list(pool.map(devices.detach, range(MANY)))), "s")


def measure_recovery(devices: Devices, daemon: servers.Daemon, here: Path) -> servers.Daemon:
    """A daemon that is killed with reads under way, until the next one has answered them all."""
    with devices.some(KILLED) as disks, ThreadPoolExecutor(KILLED) as pool:
        daemon.end(signal.SIGKILL)
        reads = [pool.submit(read, disk) for disk in disks]
        since = time.monotonic()
        daemon = servers.Daemon(here)
        for waited in reads:
            waited.result()
        row(f"recover_{KILLED}_s", time.monotonic() - since, "s")
    return daemon


def main() -> None:
    """Measures all with one daemon after another."""
    servers.modules()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        raw, layer = here / "raw", here / "layer"
        raw.write_bytes(os.urandom(SIZE))
        with raw.open("rb") as source, layer.open("xb") as target:
            lsmt_import(source.fileno(), SIZE, target.fileno(), compress={"algorithm": "lz4"})
        devices, daemon = Devices(here, layer), servers.Daemon(here)
        measure_attach(devices, raw)
        measure_many(devices, daemon)
        measure_recovery(devices, daemon, here).end()


if __name__ == "__main__":
    main()
