"""Disks of the kernel that the small daemon serves: made, attached and taken away by tests in a guest."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tcmu
import tcmu.configfs
from obdcore import lsmt_create
from tests.e2e.disks import layer, tool
from tests.vm.boot import PROJECT

HBA = 1
END_S = 30.0
# For commands that a killed daemon holds: longer than any test, shorter than for ever.
PATIENCE_S = 300


class Daemon:
    """The daemon as a process; what it says goes to a file."""

    def __init__(self, directory: Path) -> None:
        self.said = directory / "said"
        self._starts = 0
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it is ready."""
        self._starts += 1
        with self.said.open("ab") as said:
            command = [sys.executable, "-m", "tests.vm.guest.tcmu_daemon"]
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=said, cwd=PROJECT, bufsize=0
            )
        self._heard: list[str] = []
        self.hear("ready")

    def hear(self, *words: str) -> str:
        """Waits for a line that begins with these words; the line."""
        assert self.process.stdout is not None
        wanted = " ".join(words)
        while not (found := [line for line in self._heard if line.startswith(wanted)]):
            line = self.process.stdout.readline().decode()
            assert line, f"the daemon ended without {wanted!r}: {self._heard}\n{self.said.read_text()}"
            self._heard.append(line.strip())
        self._heard.remove(found[0])
        return found[0]

    def left(self) -> list[str]:
        """What an ended daemon has said of the devices that it left."""
        return [line for line in self._heard if line.startswith("left")]

    def end(self, number: int) -> None:
        """Ends it by a signal, and waits."""
        self.process.send_signal(number)
        assert self.process.stdout is not None
        with self.process.stdout as said:
            self._heard += said.read().decode().splitlines()
        self.process.wait(END_S)


@dataclass(frozen=True)
class Disk:
    """A disk of this machine on a backstore."""

    backstore: tcmu.Backstore
    loopback: tcmu.Loopback
    node: Path

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def generic(self) -> Path:
        """The node for commands that the kernel does not look at."""
        (entry,) = Path("/sys/block", self.name, "device/scsi_generic").iterdir()
        return Path("/dev", entry.name)

    def setting(self, name: str) -> str:
        """What the kernel has learned of the disk."""
        return Path("/sys/block", self.name, name).read_text().strip()

    def remove(self) -> None:
        self.loopback.remove()
        self.backstore.remove()


def configured(directory: Path, **settings: object) -> str:
    """A configuration file with settings; what a backstore is told."""
    config = directory / "config.json"
    config.write_text(json.dumps(settings))
    return f"overlaybd/{config}"


def of_data(directory: Path, data: bytes) -> str:
    """The configuration of a read-only image that holds `data`."""
    return configured(directory, lowers=[str(layer(directory / "layer", data))])


def of_zeros(directory: Path, size: int, kind: str = "log", **settings: object) -> str:
    """The configuration of a writable image of `size` zeros."""
    upper = [str(directory / "data"), str(directory / "index")]
    lsmt_create(*upper, size=size, sparse=kind == "sparse")
    return configured(directory, lowers=[], upper=upper, **settings)


def attach(name: str, config: str, *, block_bytes: int = 512, data_area_mib: int | None = None) -> Disk:
    """A disk for a configuration."""
    backstore = tcmu.Backstore(HBA, name)
    backstore.create(
        config, block_bytes=block_bytes, data_area_mib=data_area_mib, attributes={"cmd_time_out": PATIENCE_S}
    )
    loopback = tcmu.Loopback.of(backstore)
    return Disk(backstore, loopback, loopback.create(backstore, PATIENCE_S))


@contextmanager
def attached(
    name: str, config: str, *, block_bytes: int = 512, data_area_mib: int | None = None
) -> Iterator[Disk]:
    """A disk for a while. After a failure it is left to `clear`, since the daemon may have ended."""
    disk = attach(name, config, block_bytes=block_bytes, data_area_mib=data_area_mib)
    yield disk
    disk.remove()


def clear() -> None:
    """Removes all disks and backstores."""
    for entry in (tcmu.configfs.TARGET / "loopback").glob("naa.*"):
        tcmu.Loopback(entry.name).remove()
    for entry in (tcmu.configfs.TARGET / "core").glob(f"user_{HBA}/*"):
        if entry.is_dir():
            tcmu.Backstore(HBA, entry.name).remove()


@contextmanager
def running(directory: Path) -> Iterator[Daemon]:
    """A daemon; what it serves at the end is removed."""
    modules()
    daemon = Daemon(directory)
    yield daemon
    if daemon.process.poll() is not None:
        daemon.start()
    clear()
    daemon.end(signal.SIGTERM)
    assert not tcmu.devices("overlaybd")


def modules() -> None:
    """Loads what is needed, and mounts configfs."""
    tool("modprobe", "-a", "configfs", "target_core_user", "tcm_loop", "sd_mod", "sg")
    if not Path("/sys/kernel/config/target").exists():
        tool("mount", "-t", "configfs", "configfs", "/sys/kernel/config")
