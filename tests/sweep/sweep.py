"""The fault sweep: the script again and again, each time with another call that fails, and then a clean run.

    python -m tests.sweep.sweep [--stories NAMES] [--only WORDS] [--shard I/N] [--every N] [--done FILE]

Of the faults with WORDS in them the I-th of N parts, of these every N-th. A run that was stopped goes on with
the same file.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.sweep import shim
from tests.sweep.children import Say, child, learn_modules, wrongs
from tests.sweep.machine import left_of, scrub
from tests.sweep.model import Event, Model
from tests.sweep.setting import Done, add_options, ensure_shim, part_of, setting
from tests.sweep.shim import Fault, Shim, calls_of, faults_of
from tests.sweep.stories import STORIES, Script, Story
from tests.sweep.world import BASE, DEVICE_BYTES, settle

# How long threads and descriptors may take to go after all is closed: threads of pools idle for ten seconds.
_SETTLE_S: Final = 20.0
# What a download that has not ended has in its directory, and a conversion for the one that goes on with it.
_DOWNLOADED: Final = frozenset({"layer/.download", "layer/.download.progress", "layer/.download.lock"})
# What is not yet in a database that could not be closed.
_UNDER_WAY: Final = _DOWNLOADED | {"work/layers/*", "root/snapshots.db-wal", "root/snapshots.db-shm"}


def main() -> int:
    """Sweeps, prints what is wrong and counts; 0 if nothing is."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    parser.add_argument("--only", default="", metavar="WORDS")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--stories", default=",".join(STORIES), help="default: %(default)s")
    wanted = parser.parse_args()
    failures, done = 0, Done(wanted.done)
    with setting() as (home, url):
        for name in wanted.stories.split(","):
            sweep = Sweep(home, url, STORIES[name], verbose=wanted.verbose)
            faults = [fault for fault in sweep.faults() if wanted.only in str(fault)]
            chosen = part_of(faults, wanted.shard, wanted.every)
            new = [fault for fault in chosen if f"{name}: {fault}" not in done]
            begin = time.monotonic()
            for fault in new:
                lines = sweep.case(fault)
                for line in lines:
                    failures += 1
                    print(f"{name}: {fault}: {line}", flush=True)
                done.add(f"{name}: {fault}", "; ".join(lines) or "right")
            took = f"{len(new)} of {len(faults)} faults in {time.monotonic() - begin:.1f} s"
            before = f", {len(chosen) - len(new)} before" if len(new) < len(chosen) else ""
            print(f"{name}: {sweep.calls} calls, {took}{before}: {sweep.tally()}", flush=True)
    print(f"{failures} failures")
    return 1 if failures else 0


class Sweep:
    """The sweep over one story."""

    def __init__(self, home: Path, url: str, story: Story, *, verbose: bool) -> None:
        self._home: Final = home
        self._run: Final = story.run
        self._verbose: Final = verbose
        self._template: Final = story.template(home, url)
        self._shim: Final = Shim()
        self._what: Final = shim.MACHINE if story.machine else 0
        if story.machine:
            self._shim.share(home / "plan")
        self._names: set[str] = set()
        self._held: list[str] = []
        self._threads = 0
        self.calls = 0
        self._outcomes: dict[str, int] = {}

    def tally(self) -> str:
        """How the runs ended, in numbers."""
        return ", ".join(f"{count} {what}" for what, count in sorted(self._outcomes.items()))

    def faults(self) -> list[Fault]:
        """Runs the script once without a fault, and returns all that can be done to it."""
        place = self._world()
        log = self._home / "log"
        said, status = self._child(
            place, _story, [], lambda: self._shim.record(str(place), log, shim.TELL | self._what)
        )
        unwanted = [event for event in said if event[0] in ("wrong", "error")]
        assert status == 0 and not unwanted, f"without a fault: status {status}: {unwanted}"
        [left] = [event for event in said if event[0] == "left"]
        self._held, self._threads = json.loads(str(left[1])), int(left[2])
        after, status = self._child(place, _clean, said, lambda: None)
        assert status == 0 and not wrongs(after), after
        learn_modules(said + after)
        self._names = _names(place)
        shutil.rmtree(place)
        calls = calls_of(log.read_bytes())
        self.calls = len(calls)
        assert calls, "nothing was recorded"
        return [fault for call in calls for fault in faults_of(call)]

    def case(self, fault: Fault) -> list[str]:
        """What is wrong with a run that has this fault, and the clean one after it."""
        place = self._world()
        try:
            said, status = self._child(
                place, _story, [], lambda: self._shim.arm(str(place), fault, self._what)
            )
            lines = wrongs(said)
            errors = [event for event in said if event[0] == "error"]
            lines += [f"says not enough: {event[1]}: {event[3]}" for event in errors if not event[2]]
            killed = fault.kind in ("kill", "torn") and status == shim.KILLED_STATUS
            if status != 0 and not killed:
                lines.append(f"ended with {status}")
            self._count("killed" if killed else "went on with an error" if errors else "went on")
            for event in errors if self._verbose else ():
                print(f"    {fault}: {event[1:]}")
            lines += self._left(said, fault)
            if self._what and not killed:
                lines += [f"leaves {what}" for what in left_of(place)]
            return lines + self._clean(place, said)
        finally:
            scrub(place)
            shutil.rmtree(place)

    def _left(self, said: list[Event], fault: Fault) -> list[str]:
        """What a run that was not killed still holds or leaves."""
        left = next((event for event in said if event[0] == "left"), None)
        if left is None:
            return []
        held, threads, fired, names = (
            json.loads(str(left[1])),
            int(left[2]),
            left[3],
            json.loads(str(left[4])),
        )
        if not fired:
            self._count("never came")
        lines = [f"holds {name}" for name in held if name not in self._held]
        if threads > self._threads:
            lines.append(f"{threads} threads, not {self._threads}")
        # Who gets no lock may not remove the file either that it should have been on; what a removal did not
        # get rid of, or another process that was killed, goes with the next.
        excused = fault.call.op in ("unlink", "rmdir", "lock") or fault.call.name.endswith(".gone")
        if not excused and fault.kind not in ("kill", "torn"):
            lines += [f"leaves {name}" for name in names if name not in self._names | _UNDER_WAY]
        return lines

    def _clean(self, place: Path, said: list[Event]) -> list[str]:
        after, status = self._child(place, _clean, said, lambda: None)
        lines = [f"clean run: {what}" for what in wrongs(after)]
        if self._what:
            lines += [f"clean run leaves {what}" for what in left_of(place)]
        if status == 0:
            lines += [f"clean run leaves {name}" for name in sorted(_names(place) - self._names)]
        return lines

    def _count(self, what: str) -> None:
        self._outcomes[what] = self._outcomes.get(what, 0) + 1

    def _world(self) -> Path:
        place = Path(tempfile.mkdtemp(dir=self._home)) / "w"
        settle(self._template, place)
        return place

    def _child(
        self, place: Path, work: Callable[[Script], None], before: list[Event], arm: Callable[[], None]
    ) -> tuple[list[Event], int]:
        def run(say: Say) -> None:
            model = Model(DEVICE_BYTES, BASE)
            for event in before:
                model.feed(event)
            arm()
            work(self._run(str(place), say, model))
            fired = int(self._shim.fired)
            self._shim.disarm()
            held, threads = self._settled(place)
            say(["left", json.dumps(held), threads, fired, json.dumps(sorted(_names(place)))])

        return child(run)

    def _settled(self, place: Path) -> tuple[list[str], int]:
        """What of the world this process holds open, and its threads: when few enough, or at last."""
        end = time.monotonic() + _SETTLE_S
        while True:
            gc.collect()
            held, threads = _held(place), len(os.listdir("/proc/self/task"))
            good = threads <= self._threads and set(held) <= set(self._held)
            if good or time.monotonic() > end or not self._threads:
                return held, threads
            time.sleep(0.01)


def _story(script: Script) -> None:
    script.story()


def _clean(script: Script) -> None:
    script.clean()


def _held(place: Path) -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith(f"{place}/"):
                found.append(target.removeprefix(f"{place}/"))
    return sorted(found)


def _names(place: Path) -> set[str]:
    return {shim.pattern_of(str(path.relative_to(place))) for path in place.rglob("*")}


if __name__ == "__main__":
    ensure_shim("tests.sweep.sweep")
    sys.exit(main())
