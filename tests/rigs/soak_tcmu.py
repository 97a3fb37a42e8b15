"""A soak of one daemon with many TCMU disks, in a guest: `make soak` runs it there.

In the first third of the time the daemon is killed again and again, and I/O goes on. All the
time the registry goes away and the cache is deleted. What the last daemon holds must stay what it is.
"""

import argparse
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.e2e.disks import MIB
from tests.rigs.attached import held, working
from tests.rigs.images import KINDS, Store
from tests.rigs.load import Load, spread
from tests.rigs.soak import DEVICES, HEAD, SAMPLE_S, row, work_done
from tests.rigs.stamps import BASE
from tests.vm.guest.tcmu_disk import Daemon, Disk, attach, running

SIZE = 8 * MIB
LINES = 40  # of the log, when something is wrong


@dataclass
class Soak:
    """A run, and what has been done in it."""

    daemon: Daemon
    store: Store
    disks: list[Disk]
    loads: list[Load]
    samples: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    kills: int = 0
    outages: int = 0
    deletions: int = 0
    recovery_s: float = 0.0

    def run(self, end_s: float, seed: int) -> None:
        """Works and disturbs until the end. Raises `AssertionError` for what is wrong."""
        numbers = random.Random(seed)
        began = time.monotonic()
        while (now := time.monotonic() - began) < end_s:
            # No event: it is the moment that is to be any.
            time.sleep(numbers.uniform(0.2, 2.0))
            what = numbers.random()
            if what < 0.4 and now < end_s / 3:
                self._kill()
                self.samples.clear()
            elif what < 0.6:
                self.store.registry.kill()
                time.sleep(numbers.uniform(0.5, 5.0))
                self.store.registry.start()
                self.outages += 1
            elif what < 0.8:
                self.store.delete_cache()
                self.deletions += 1
            for load in self.loads:
                assert not load.problem, "\n".join([load.problem, *self.daemon.heard("")[-LINES:]])
            if not self.samples or now > self.samples[-1][0] + SAMPLE_S:
                self.samples.append((now, held(self.daemon.process.pid)))

    def _kill(self) -> None:
        """Kills the daemon; the next one takes the disks over."""
        self.daemon.end(signal.SIGKILL)
        began = time.monotonic()
        self.daemon.start()
        for disk in self.disks:
            self.daemon.hear(f"{disk.backstore.name} is taken over")
        self.recovery_s = max(self.recovery_s, time.monotonic() - began)
        self.kills += 1

    def report(self, end_s: float) -> list[str]:
        """Prints the tables; what is wrong."""
        work_done(self.loads, self.kills, self.recovery_s, self.outages, self.deletions)
        print(HEAD)
        steady = [sample for sample in self.samples if sample[0] > end_s / 2]
        return row("daemon", self.kills, steady or self.samples, strict=True)


def soak(directory: Path, minutes: float, seed: int, rate: float) -> list[str]:
    """Runs it; what was wrong."""
    with Store(directory / "store", SIZE) as store, running(directory) as daemon:
        store.cache = directory / "cache"
        disks, loads = [], []
        for number in range(DEVICES):
            image = store.image(directory / f"vol{number}", KINDS[number % 2])
            try:
                disks.append(attach(image.directory.name, f"overlaybd/{image.config}"))
            except OSError as error:
                raise AssertionError("\n".join([str(error), *daemon.heard("")])) from error
            loads += spread(disks[-1].node, SIZE, parts=1, seed=seed * 100 + number, base=BASE, rate=rate)
        run = Soak(daemon, store, disks, loads)
        with working(loads):
            run.run(minutes * 60, seed)
        wrong = run.report(minutes * 60)
        for disk in disks:
            disk.remove()
    return wrong


def main() -> int:
    """Runs a soak; its status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=5, help="requests a second of each disk's load")
    words = parser.parse_args()
    with TemporaryDirectory(prefix="soak-") as directory:
        wrong = soak(Path(directory), words.minutes, words.seed, words.rate)
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
