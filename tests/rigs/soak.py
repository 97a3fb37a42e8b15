"""A soak: many devices at work for long, while processes are killed, the registry is away, the cache deleted.

`python -m tests.rigs.soak --minutes 10` prints what was done, and what each process held first and last.
Half of the devices live through it all; what their processes hold must stay what it is. The others are killed
again and again, and must have all that was acknowledged. Its status is 1 if anything was wrong, or grew.
"""

import argparse
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.e2e.disks import MIB
from tests.rigs.attached import Attached, held, working
from tests.rigs.images import KINDS, Store
from tests.rigs.load import Load, spread
from tests.rigs.stamps import BASE

DEVICES = 16
SIZE = 32 * MIB
PARTS = 2
SAMPLE_S = 5.0
# What a process holds is compared from here on: before, caches of it and thread pools fill.
WARM = 0.25
# What a process may grow by from then on: pages of its heap come and go with what is under way.
MOST_KIB = 4096
MOST_MORE = 4

HEAD = """\
process            kills   memory, KiB  a minute   descriptors  threads
                          first    last       KiB  first  last  first  last"""


@dataclass
class Member:
    """A device with its loads; `samples` are (seconds, what its process held)."""

    device: Attached
    loads: list[Load]
    mortal: bool
    samples: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    kills: int = 0


@dataclass
class Soak:
    """A run: its members, and what has been done to them."""

    store: Store
    members: list[Member]
    end_s: float
    seed: int
    outages: int = 0
    deletions: int = 0
    recovery_s: float = 0.0

    def run(self) -> None:
        """Works and disturbs until the end. Raises `AssertionError` for what is wrong."""
        numbers = random.Random(self.seed)
        began = time.monotonic()
        mortal = [member for member in self.members if member.mortal]
        sampled = float("-inf")
        while time.monotonic() < began + self.end_s:
            # No event: it is the moment that is to be any.
            time.sleep(numbers.uniform(0.2, 2.0))
            what = numbers.random()
            if what < 0.4:
                self._kill(numbers.choice(mortal))
            elif what < 0.6:
                self._outage(numbers.uniform(0.5, 5.0))
            elif what < 0.8:
                self.store.delete_cache()
                self.deletions += 1
            now = time.monotonic() - began
            for member in self.members:
                for load in member.loads:
                    assert not load.problem, load.problem
                if now > sampled + SAMPLE_S:
                    member.samples.append((now, held(member.device.pid)))
            if now > sampled + SAMPLE_S:
                sampled = now

    def _kill(self, member: Member) -> None:
        """Kills the process of a device under load; it has all when it is there again."""
        for load in member.loads:
            load.fragile.set()
        member.device.kill()
        began = time.monotonic()
        for load in member.loads:
            load.until(lambda load=load: load.last_error, "error")  # type: ignore[misc]
            load.stop()
        member.device.detach()
        member.device.attach()
        self.recovery_s = max(self.recovery_s, time.monotonic() - began)
        for load in member.loads:
            load.last_error = 0
            load.path = member.device.path
            load.fragile.clear()
            load.verify()
            load.start()
        member.kills += 1
        member.samples.clear()

    def _outage(self, length_s: float) -> None:
        """The registry is away for a while."""
        self.store.registry.kill()
        time.sleep(length_s)
        self.store.registry.start()
        self.outages += 1

    def report(self) -> list[str]:
        """Prints the tables; what is wrong."""
        loads = [load for member in self.members for load in member.loads]
        kills = sum(member.kills for member in self.members)
        work_done(loads, kills, self.recovery_s, self.outages, self.deletions)
        print(HEAD)
        wrong = []
        for number, member in enumerate(self.members):
            name = f"{number:2} {KINDS[number % 2]:7} {'mortal' if member.mortal else ''}"
            steady = [(at, what) for at, what in member.samples if at >= self.end_s * WARM or member.mortal]
            if steady:
                wrong += row(name, member.kills, steady, strict=not member.mortal)
        return wrong


def work_done(loads: list[Load], kills: int, recovery_s: float, outages: int, deletions: int) -> None:
    """Prints what loads have done and what was done to them."""

    def total(name: str) -> int:
        return sum(getattr(load, name) for load in loads)

    rows = {
        "requests answered": total("done"),
        "  flushes": total("flushes"),
        "  discards": total("discards"),
        "  failed while killed": total("failed"),
        "bytes acknowledged": total("acknowledged_bytes"),
        "bytes verified": sum(load.ledger.checked_bytes for load in loads),
        "processes killed": kills,
        "outages of the registry": outages,
        "deletions of the cache": deletions,
    }
    for name, count in rows.items():
        print(f"{name:28} {count:>14,}")
    print(f"{'longest until back, s':28} {recovery_s:>14.1f}\n")


def row(name: str, kills: int, samples: list[tuple[float, dict[str, int]]], *, strict: bool) -> list[str]:
    """Prints what a process held; what of it was not flat, if that is `strict`."""
    first, last = samples[0][1], samples[-1][1]
    third = max(len(samples) // 3, 1)
    early = {what: min(held[what] for _, held in samples[:third]) for what in first}
    late = {what: min(held[what] for _, held in samples[-third:]) for what in first}
    slope = _slope([(at, what["rss_kib"]) for at, what in samples]) * 60
    print(
        f"{name:18} {kills:>5} {first['rss_kib']:>7,} {last['rss_kib']:>7,} {slope:>9,.0f}"
        f" {first['descriptors']:>7} {last['descriptors']:>5} {first['threads']:>6} {last['threads']:>5}"
    )
    wrong = []
    for what, most in (("rss_kib", MOST_KIB), ("descriptors", MOST_MORE), ("threads", MOST_MORE)):
        if strict and late[what] > early[what] + most:
            wrong.append(f"{name}: {what} has grown from {early[what]} to {late[what]}")
    return wrong


def _slope(points: list[tuple[float, int]]) -> float:
    """How much they grow each second, by least squares."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    across = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / across if across else 0.0


def soak(directory: Path, minutes: float, seed: int, rate: float) -> list[str]:
    """Runs it; what was wrong."""
    os.environ["OVERLAYBD_RUN_DIR"] = str(directory / "run")
    with ExitStack() as stack:
        store = stack.enter_context(Store(directory, SIZE))
        images = [store.image(directory / f"{n}", KINDS[n % 2]) for n in range(DEVICES)]
        with ThreadPoolExecutor(4) as pool:
            devices = list(pool.map(Attached, images))
        members = []
        for number, device in enumerate(devices):
            stack.callback(device.detach)
            loads = spread(device.path, SIZE, parts=PARTS, seed=seed * 100 + number, base=BASE, rate=rate)
            members.append(Member(device, loads, number % 4 > 1))
        run = Soak(store, members, minutes * 60, seed)
        try:
            with working([load for member in members for load in member.loads]):
                run.run()
        except AssertionError as error:
            return [*run.report(), str(error)]
        return run.report()


def main() -> int:
    """Runs a soak; its status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=10, help="requests a second of each of two loads")
    words = parser.parse_args()
    began = time.monotonic()
    with TemporaryDirectory(prefix="soak-") as directory:
        wrong = soak(Path(directory), words.minutes, words.seed, words.rate)
    print(f"\n{DEVICES} devices, {time.monotonic() - began:.0f} s")
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
