"""Disks of the kernel that the daemon serves: made, attached and taken away by tests in a guest."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import tcmu
import tcmu.configfs
from obdcore import lsmt_create
from tests.e2e.disks import layer, tool
from tests.vm.boot import PROJECT

HBA = 1
END_S = 120.0
# For commands that a killed daemon holds: longer than any test, shorter than for ever.
PATIENCE_S = 300
# No line of a log.
_END = "\n"


class Daemon:
    """`overlaybd-tcmu` as a process, whose log is its standard output.

    Before it starts, `limits` are set and `program` is carried out.
    """

    def __init__(
        self,
        directory: Path,
        *,
        program: str = "",
        environment: Mapping[str, str] | None = None,
        limits: Mapping[str, object] | None = None,
    ) -> None:
        self.config = directory / "overlaybd.json"
        self.said = directory / "said"
        cache = {
            "cacheType": "file",
            "cacheDir": str(directory / "cache"),
            "cacheSizeGB": 1,
            "refillSize": 65536,
        }
        self.configure(logPath="", enableAudit=False, cacheConfig=cache)
        setting = "".join(f"limits.{name} = {value}; " for name, value in (limits or {}).items())
        program = f"import sys; from obd.daemon import limits; {setting}{program}"
        program += "from tools.tcmu import main; sys.exit(main())"
        self.command = [sys.executable, "-c", program, str(self.config)]
        self.environment = {**os.environ, **(environment or {})}
        self._news = threading.Condition()
        self.start()

    def configure(self, **settings: object) -> None:
        """Writes its configuration."""
        self.config.write_text(json.dumps(settings))

    def start(self, *options: str) -> None:
        """Starts it, and waits until it is ready."""
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(
                [*self.command, *options],
                stdout=subprocess.PIPE,
                stderr=said,
                cwd=PROJECT,
                env=self.environment,
            )
        self._heard: list[str] = []
        # All the time: who has written more than a pipe holds waits until it is read.
        self._ear = threading.Thread(target=self._listen, args=(self.process, self._heard), daemon=True)
        self._ear.start()
        self.hear("ready")

    def _listen(self, process: "subprocess.Popen[bytes]", heard: list[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                with self._news:
                    heard.append(line.decode().strip())
                    self._news.notify_all()
        with self._news:
            heard.append(_END)
            self._news.notify_all()

    def hear(self, words: str) -> str:
        """Waits for a line of the log that holds these words, and that has not been waited for; the line."""
        with self._news:
            self._news.wait_for(lambda: self._found(words) or _END in self._heard)
            found = self._found(words)
            assert found, f"the daemon ended without {words!r}: {self._heard}\n{self.said.read_text()}"
            self._heard.remove(found[0])
            return found[0]

    def _found(self, words: str) -> list[str]:
        return [line for line in self._heard if words in line]

    def heard(self, words: str) -> list[str]:
        """The lines that hold these words, of those that have come."""
        with self._news:
            return self._found(words)

    def succeed(self) -> None:
        """Has another one take its place."""
        old, ear, heard = self.process, self._ear, self._heard
        self.start("--takeover")
        ear.join(END_S)
        assert old.wait(END_S) == 0, heard

    def end(self, number: int) -> int:
        """Ends it by a signal, and waits; its status."""
        self.process.send_signal(number)
        self._ear.join(END_S)
        return self.process.wait(END_S)


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


class Gate:
    """A configuration that cannot be read before the gate is opened, which is at the end at the latest."""

    def __init__(self, config: str) -> None:
        self._file = Path(config.removeprefix("overlaybd/"))
        self._content = self._file.read_bytes()
        self._file.unlink()
        os.mkfifo(self._file)

        self._pipe = -1

    def wait(self) -> None:
        """Waits until somebody waits for it to open."""
        self._pipe = os.open(self._file, os.O_WRONLY)

    def open(self) -> None:
        """Lets those who wait read it, and all who come later."""
        if self._file.is_fifo():
            pipe = self._file.rename(self._file.with_suffix(".pipe"))
            self._file.write_bytes(self._content)
            with suppress(OSError):  # nobody waits
                if self._pipe < 0:
                    self._pipe = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
                os.write(self._pipe, self._content)
            if self._pipe >= 0:
                os.close(self._pipe)

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *_: object) -> None:
        self.open()


def of_data(directory: Path, data: bytes, **settings: object) -> str:
    """The configuration of a read-only image that holds `data`."""
    return configured(directory, lowers=[{"file": str(lower_of(directory, data))}], **settings)


def lower_of(directory: Path, data: bytes) -> Path:
    """A layer that holds `data`."""
    return layer(directory / "layer", data)


def of_zeros(directory: Path, size: int, kind: str = "log", **settings: object) -> str:
    """The configuration of a writable image of `size` zeros."""
    upper = {"data": str(directory / "data"), "index": str(directory / "index")}
    lsmt_create(*upper.values(), size=size, sparse=kind == "sparse")
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
def running(
    directory: Path,
    *,
    program: str = "",
    environment: Mapping[str, str] | None = None,
    limits: Mapping[str, object] | None = None,
) -> Iterator[Daemon]:
    """A daemon; what it serves at the end is removed."""
    modules()
    daemon = Daemon(directory, program=program, environment=environment, limits=limits)
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
