"""A node of a cluster: a registry, Debian's containerd with runc, and our snapshotter, for one test."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from obd.attach.ways import way
from tests.e2e.commands import BIN, ok, run
from tests.e2e.oci_images import Layer, Layout
from tests.e2e.servers import Registry

# Guests are slow: longer than anything takes there on a busy machine.
START_S = 180.0
RUN_S = 240.0
# For so long the kernel may use a device whose last mount is gone.
GONE_S = 60.0
PROGRAMS = ("sh", "cat", "echo", "ls", "sleep", "sync", "rm", "md5sum", "true", "head", "mkdir")


def missing() -> str:
    """Why there can be no node here, "" if there can."""
    lacks = [name for name in ("containerd", "ctr", "runc", "busybox") if not shutil.which(name)]
    return f"not installed: {', '.join(lacks)}" if lacks else ""


CONTAINERS = pytest.mark.skipif(
    bool(_lack := missing() or way("fuse").missing()), reason=f"no containers here: {_lack}"
)
"""For tests of what `node_of` makes."""


class Node:
    """Starts and stops its programs; all that they keep is below `directory`."""

    def __init__(
        self,
        directory: Path,
        registry: Registry,
        *,
        attach: object = "fuse",
        service: Mapping[str, object] | None = None,
        **settings: object,
    ) -> None:
        """`service`: settings of the service configuration; the others are the snapshotter's."""
        self.directory = directory
        self.registry = registry
        self.root = directory / "root"
        self.socket = directory / "containerd.sock"
        self.log = directory / "log"
        # Of `ctr run`: otherwise containers of all nodes of the machine share their names and cgroups.
        self.apart = ("--runc-root", str(directory / "runc"), "--cgroup", "")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._write(
            "service.json",
            cacheConfig={"cacheType": "file", "cacheDir": f"{directory}/cache", "cacheSizeGB": 1},
            **(service or {}),
        )
        self._write(
            "snapshotter.json",
            root=str(self.root),
            address=str(directory / "snapshotter.sock"),
            containerdAddress=str(self.socket),
            # The daemon has a configuration of its own.
            serviceConfig="" if attach == "tcmu" else str(directory / "service.json"),
            attach=attach,
            **settings,
        )
        (directory / "containerd.toml").write_text(
            f"""
            version = 2
            root = "{directory}/containerd"
            state = "{directory}/state"
            [grpc]
            address = "{self.socket}"
            [proxy_plugins.overlaybd]
            type = "snapshot"
            address = "{directory}/snapshotter.sock"
            # It removes snapshots that it knows nothing of, which tests make: only when it is told to.
            [plugins."io.containerd.gc.v1.scheduler"]
            startup_delay = "1h"
            mutation_threshold = 1000000
            """
        )

    def _write(self, name: str, **content: object) -> None:
        (self.directory / name).write_text(json.dumps(content))

    def start(self, name: str) -> None:
        """Starts `containerd` or `snapshotter`, and waits until it answers."""
        commands: dict[str, list[str | Path]] = {
            "containerd": ["containerd", "-c", self.directory / "containerd.toml"],
            "snapshotter": [BIN / "overlaybd-snapshotter", self.directory / "snapshotter.json"],
        }
        with self.log.open("ab") as log:
            self.processes[name] = subprocess.Popen(commands[name], stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not self._answers(name):
            assert self.processes[name].poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def _answers(self, name: str) -> bool:
        """Whether a program answers, and containerd knows."""
        listens = name != "snapshotter" or _listens(self.directory / "snapshotter.sock")
        if not listens or "containerd" not in self.processes:
            return listens
        words = ["version"] if name == "containerd" else ["snapshots", "--snapshotter", "overlaybd", "ls"]
        return self.ctr(*words).returncode == 0

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """Ends one of them by a signal, and waits."""
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(RUN_S)

    def stop(self) -> None:
        """Ends all, and takes away what is attached."""
        for name in list(self.processes):
            self.end(name)
        for point in self.mounts():
            subprocess.run(["umount", point], check=True)
        deadline = time.monotonic() + GONE_S
        for attachment in self.attached():
            while (done := run("obd", "detach", attachment)).status:
                assert "busy" in done.err and time.monotonic() < deadline, done.err

    def ctr(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs `ctr`."""
        return subprocess.run(
            ["ctr", "--address", self.socket, *words],
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )

    def ok(self, *words: str, status: int = 0) -> str:
        """Runs `ctr`, which must succeed, or end with that status; what it printed."""
        done = self.ctr(*words)
        assert done.returncode == status, f"ctr {words}: {done.stderr}\n{self.log.read_text()[-4000:]}"
        return done.stdout

    def pull(self, name: str, *options: str) -> dict[str, int]:
        """Brings an image lazily; how many layers were lazy, fetched, present."""
        words = ["--address", str(self.socket), "--http", "--json", *options, self.image(name)]
        found = json.loads(ok("obd", "rpull", *words).out)
        return {kind: found[kind] for kind in ("lazy", "fetched", "present")}

    def image(self, name: str) -> str:
        """The reference of an image of the registry."""
        return f"{self.registry.host}/{name}"

    def run(self, name: str, container: str, *command: str, options: tuple[str, ...] = ("--rm",)) -> str:
        """Runs a command in a new container; what it printed, unless it is detached."""
        words = [*self.apart, "--snapshotter", "overlaybd", self.image(name), container, *command]
        if "--detach" in options:
            return self.ok("run", *options, *words)
        return self._said("run", *options, words=words)

    def exec(self, container: str, name: str, *command: str, status: int = 0) -> str:
        """Runs a command, under a name of its own, in a container that runs; what it printed to stdout.

        It must succeed, or end with that status.
        """
        return self._said("task", "exec", "--exec-id", name, words=[container, *command], status=status)

    def _said(self, *ctr: str, words: list[str], status: int = 0) -> str:
        # Not through ctr, which may lose the end of what a program prints as that ends. In this way only
        # stderr may be lost: containerd may close the file for both when stdout ends.
        with tempfile.NamedTemporaryFile("r", dir=self.directory, prefix="said-") as said:
            self.ok(*ctr, "--log-uri", f"file://{said.name}", *words, status=status)
            return said.read()

    def collect(self) -> None:
        """Has containerd collect its garbage, and try again to remove the snapshots it could not."""
        # It looks at snapshots only if one has gone.
        for words in (("prepare", "garbage"), ("rm", "garbage")):
            self.ok("snapshots", "--snapshotter", "overlaybd", *words)
        self.ok("leases", "create", "--id", "garbage")
        self.ok("leases", "rm", "--sync", "garbage")

    def until_nothing_is_left(self) -> None:
        """Returns when nothing is left of what was removed, for which only a busy device is an excuse."""
        deadline = time.monotonic() + GONE_S
        while left := self.left():
            log = self.log.read_text()
            assert "busy" in log and time.monotonic() < deadline, f"{left}\n{log[-4000:]}"
            # The kernel may still use a device whose mount has just gone: it goes with the next garbage.
            self.collect()

    def left(self) -> list[str]:
        """Snapshots, devices, mounts and directories of snapshots that there are."""
        directories = os.listdir(self.root / "snapshots")
        return [*self.snapshots(), *self.attached(), *self.mounts(), *directories]

    def snapshots(self) -> set[str]:
        """The names of all snapshots, as containerd has them."""
        lines = self.ok("snapshots", "--snapshotter", "overlaybd", "ls").splitlines()[1:]
        return {line.split()[0] for line in lines}

    def mounts(self) -> list[str]:
        """What is mounted below the root."""
        return [
            line.split()[1]
            for line in Path("/proc/mounts").read_text().splitlines()
            if f"{self.root}/" in line
        ]

    def attached(self) -> list[str]:
        """The devices of snapshots."""
        return [each["path"] for each in json.loads(ok("obd", "list", "--json").out)]

    def __enter__(self) -> "Node":
        self.start("snapshotter")
        self.start("containerd")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _listens(path: Path) -> bool:
    """Whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@contextmanager
def node_of(
    registry: Registry, home: Path, *, service: Mapping[str, object] | None = None, **settings: object
) -> Iterator[Node]:
    """A node on which nothing has been pulled; after the block nothing of it is left.

    Meanwhile devices are kept track of below `home`.
    """
    # Short, since sockets have short names.
    directory = Path(f"/tmp/obd-{os.getpid()}-{home.name[-8:]}")
    directory.mkdir()
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("OVERLAYBD_RUN_DIR", str(home / "run"))
            with Node(directory, registry, service=service, **settings) as node:
                yield node
    finally:
        for point in Path("/proc/mounts").read_text().split():
            if point.startswith(f"{directory}/"):
                subprocess.run(["umount", "-l", point], check=False)
        shutil.rmtree(directory)


def build(directory: Path, registry: Registry, *, big: int = 16 << 20, plain: bool = True) -> None:
    """Pushes `app:v1`, of two ordinary layers, if it is to be `plain`, and `app:v1-obd`, the same for us.

    Its file `/big` has that many bytes, of which no two blocks are the same.
    """
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    base = Layer().add("bin", kind=b"5").add("bin/busybox", data=busybox, mode=0o755)
    for name in PROGRAMS:
        base.add(f"bin/{name}", kind=b"2", linkname="busybox")
    for name in ("etc", "proc", "sys", "dev", "tmp"):
        base.add(name, kind=b"5")
    base.add("big", data=os.urandom(big)).add("etc/name", data=b"one\n")
    top = Layer().add("etc/name", data=b"two\n").add("etc/more", data=b"more\n")
    layout = Layout(directory / "layout")
    layout.tag(layout.image([base, top]), "v1")
    target = f"{registry.host}/app:v1"
    source = f"oci:{directory}/layout:v1"
    if plain:
        ok("obd", "copy", source, f"http://{target}")
    ok("obd", "convert", source, f"http://{target}-obd")
