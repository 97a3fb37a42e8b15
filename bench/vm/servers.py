"""Who serves disks in a guest: our daemon, tcmu-runner, the kernel itself; and fio, which loads them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tcmu
from bench.nbd import SIZE
from tcmu.configfs import TARGET, Backstore, patiently, write

HBA = 1
END_S = 30
# As our own daemon is configured in the benchmarks: all logs to stderr, nothing else running.
SERVICE = {"logConfig": {"logLevel": 2}, "enableAudit": False}


class Plain(Backstore):
    """A backstore that is not ours, made by the same steps. `control` is told to it before it is enabled."""

    def make(self, *control: str) -> None:
        """Makes and enables it."""
        self.directory.parent.mkdir(exist_ok=True)
        self.directory.mkdir()
        for words in control:
            write(self.directory / "control", words)
        patiently(lambda: write(self.directory / "enable", "1"))


class Fileio(Plain):
    """The kernel's own backstore, of a file."""

    @property
    def directory(self) -> Path:
        """Its directory, whether it is there or not."""
        return TARGET / "core" / f"fileio_{self.hba}" / self.name


def tool(*command: str | Path) -> None:
    """Runs a tool that must succeed, and says nothing of its own where rows are printed."""
    subprocess.run(command, check=True, stdout=sys.stderr)


def modules() -> None:
    """Loads what is needed, and mounts configfs."""
    tool("modprobe", "-a", "configfs", "target_core_user", "target_core_file", "tcm_loop", "sd_mod")
    tool("mount", "-t", "configfs", "configfs", "/sys/kernel/config")


class Daemon:
    """Our daemon, which is ready."""

    def __init__(self, directory: Path) -> None:
        config = directory / "service.json"
        config.write_text(json.dumps(SERVICE))
        address = directory / "notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(address))
            notified.settimeout(END_S)
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("overlaybd-tcmu"), config],
                stdout=sys.stderr,
                env={**os.environ, "NOTIFY_SOCKET": str(address)},
            )
            while b"READY=1" not in notified.recv(4096):
                pass  # it says how things are

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ends it by a signal."""
        self.process.send_signal(number)
        self.process.wait(END_S)

    def resident_bytes(self) -> int:
        """Memory that it has to itself, or shares with others that run the same program."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) << 10


@contextmanager
def ours(directory: Path, config: Path) -> Iterator[Path]:
    """A disk that our daemon serves."""
    daemon = Daemon(directory)
    backstore = Backstore(HBA, "ours")
    backstore.create(f"overlaybd/{config}")
    with linked(backstore) as disk:
        yield disk
    daemon.end()


@contextmanager
def runner(directory: Path, program: Path, image: Path) -> Iterator[Path]:
    """A disk that tcmu-runner, unpacked in the directory `program`, serves from a qcow2 file."""
    shutil.copytree(program / "etc/tcmu", "/etc/tcmu", dirs_exist_ok=True)
    (libraries,) = (program / "usr/lib").glob("*-linux-gnu")
    process = subprocess.Popen(
        [
            program / "usr/bin/tcmu-runner",
            "--handler-path",
            libraries / "tcmu-runner",
            "--tcmu-log-dir",
            directory,
        ],
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    backstore = Plain(HBA, "runner")
    backstore.make(
        f"dev_config=qcow/{image}", f"dev_size={SIZE}", "hw_max_sectors=2048", "max_data_area_mb=64"
    )
    with linked(backstore) as disk:
        yield disk
    process.terminate()
    process.wait(END_S)


@contextmanager
def fileio(raw: Path) -> Iterator[Path]:
    """A disk that the kernel serves from a file."""
    backstore = Fileio(HBA, "fileio")
    backstore.make(f"fd_dev_name={raw},fd_dev_size={SIZE}")
    with linked(backstore) as disk:
        yield disk


@contextmanager
def linked(backstore: Backstore) -> Iterator[Path]:
    """The disk of a backstore, and that is removed at the end."""
    loopback = tcmu.Loopback.of(backstore)
    yield loopback.create(backstore)
    loopback.remove()
    backstore.remove()


def fio(disk: Path, load: Sequence[str], seconds: float) -> float:
    """Reads a disk; how many requests it answered in a second."""
    command = [
        "fio",
        "--name=load",
        f"--filename={disk}",
        "--readonly",
        "--direct=1",
        "--ioengine=libaio",
        "--time_based",
        f"--runtime={round(1000 * seconds)}ms",
        "--output-format=json",
        *load,
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    (job,) = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
    if job["error"]:
        raise OSError(job["error"], f"fio on {disk}")
    return float(job["read"]["iops"])
