"""A device of `obd attach` by FUSE and a loop device, whose process is killed and started again."""

import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import obd.attach
from obd.sockets import processes, statistics
from tests.e2e.commands import end, kill_with_guard
from tests.rigs.images import Image
from tests.rigs.load import Load

PATIENCE_S = 60.0


def lack_of_guards() -> str:
    """Why a FUSE server that is killed is not replaced here, "" if it is."""
    kernel = tuple(int(word) for word in platform.release().split("-")[0].split(".")[:2])
    return "" if kernel >= (6, 9) else "the kernel asks again what a dead FUSE server had taken from 6.9 on"


class Attached:
    """An image as a loop device. `path` and `pid` are those of now."""

    def __init__(self, image: Image, *, writes: bool = True) -> None:
        self.image, self.writes = image, writes
        self.attach()

    def attach(self) -> None:
        """Makes the device, or makes it again after `kill`."""
        made = obd.attach.attach(self.image.config, via="fuse", rw=self.writes, service=self.image.service)
        self.path, self.pid = made.path, made.pid

    def kill(self) -> None:
        """Kills its process and the one above it; users get errors from then on."""
        known = obd.attach.find(self.image.config)
        kill_with_guard(known.pid if known else self.pid)

    def kill_server(self) -> None:
        """Kills its process; another one takes its place."""
        end(self.pid, signal.SIGKILL)

    def wait_for_server(self) -> None:
        """Returns when another process serves."""
        until(self._is_served_again, "not served again")

    def _is_served_again(self) -> bool:
        known = obd.attach.find(self.image.config)
        before, self.pid = self.pid, known.pid if known and known.pid in processes() else self.pid
        return self.pid != before

    def detach(self) -> None:
        obd.attach.detach(self.image.config)

    def fetches_failed(self) -> int:
        """Requests to registries that failed so far."""
        until(lambda: self.pid in processes(), "no control socket")
        (device,) = statistics(self.pid)["devices"]
        return sum(layer.get("failures", 0) for layer in device["layers"])

    def held(self) -> dict[str, int]:
        """What its process holds."""
        return held(self.pid)


def held(pid: int) -> dict[str, int]:
    """Memory of its own in KiB, descriptors and threads of a process."""
    process = Path("/proc", str(pid))
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
    return {
        "rss_kib": int(status["RssAnon"].split()[0]),
        "descriptors": len(os.listdir(process / "fd")),
        "threads": int(status["Threads"]),
    }


@contextmanager
def attached(image: Image, **options: Any) -> Iterator[Attached]:
    """A device for a while."""
    device = Attached(image, **options)
    try:
        yield device
    finally:
        device.detach()


@contextmanager
def working(loads: list[Load]) -> Iterator[list[Load]]:
    """Loads at work; all have verified everything at the end."""
    for load in loads:
        load.start()
    try:
        yield loads
    except BaseException:
        for load in loads:
            load.give_up()
        raise
    for load in loads:
        load.stop()
    for load in loads:
        load.verify()


def until(true: Any, what: str) -> None:
    """Returns when something is true. Raises `AssertionError` if that takes too long.

    A process that is asked and does not answer yet, on a busy machine, is asked again.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with suppress(TimeoutError, ConnectionError):
            if true():
                return
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
