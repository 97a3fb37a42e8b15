"""Crash consistency: what the script writes is recorded, and opened as a loss of power at any moment left it.

    python -m tests.sweep.crash [--every N] [--more N] [--shard I/N] [--done FILE]

Every N-th moment of the I-th of N parts, and that many more states in each, drawn at random.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.sweep import shim
from tests.sweep.children import Say, child, learn_modules, wrongs
from tests.sweep.model import Event, Model
from tests.sweep.oplog import Disk, Op, State, materialize, parse
from tests.sweep.script import Run
from tests.sweep.setting import Done, add_options, ensure_shim, part_of, setting
from tests.sweep.world import BASE, DEVICE_BYTES, copy_tree, make_template, settle


def main() -> int:
    """Tries states, prints what is wrong and counts; 0 if nothing is."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    parser.add_argument("--more", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layouts", default="log,sparse")
    wanted = parser.parse_args()
    failures, done = 0, Done(wanted.done)
    with setting() as (home, url):
        for layout in wanted.layouts.split(","):
            crashes = Crashes(home, url, sparse=layout == "sparse")
            begin = time.monotonic()
            chosen = part_of(list(range(crashes.entries)), wanted.shard, wanted.every)
            name = f"{layout}, seed {wanted.seed}, {wanted.more} more, after"
            new = {cut for cut in chosen if f"{name} {cut}" not in done}
            for cut, tried, lines in crashes.run(new, wanted.more, wanted.seed):
                for line in lines:
                    failures += 1
                    print(f"{layout}: {line}", flush=True)
                done.add(f"{name} {cut}", f"{tried} states: {'; '.join(lines) or 'right'}")
            took = time.monotonic() - begin
            print(f"{layout}: {crashes.entries} entries, {crashes.tried} states in {took:.1f} s", flush=True)
    print(f"{failures} failures")
    return 1 if failures else 0


class Crashes:
    """The recorded run over one layout of the upper, and all that may be left of it."""

    def __init__(self, home: Path, url: str, *, sparse: bool) -> None:
        self._sparse: Final = sparse
        self._place: Final = home / f"world-{'sparse' if sparse else 'log'}"
        self._settled: Final = home / f"settled-{'sparse' if sparse else 'log'}"
        template = make_template(home, url, sparse=sparse)
        settle(template, self._place)
        copy_tree(self._place, self._settled)
        self._disk: Final = Disk(self._settled)
        self._ops: Final = self._record(home / "log")
        self._seen: Final[set[bytes]] = set()
        self.entries: Final = len(self._ops)
        self.tried = 0

    def _record(self, log: Path) -> list[Op]:
        inodes = {
            path.stat().st_ino: str(path.relative_to(self._place))
            for path in self._place.rglob("*")
            if path.is_file()
        }

        def run(say: Say) -> None:
            tool = shim.Shim()
            tool.record(str(self._place), log, shim.DATA | shim.TELL)

            def note(event: Event) -> None:
                tool.note(json.dumps(event))
                say(event)

            Run(str(self._place), note, Model(DEVICE_BYTES, BASE), sparse=self._sparse).story()
            tool.disarm()

        said, status = child(run)
        unwanted = [event for event in said if event[0] in ("wrong", "error")]
        assert status == 0 and not unwanted, unwanted
        learn_modules(said)
        ops = parse(log.read_bytes())
        self._compare(ops, inodes)
        self._disk.learn(inodes)
        return ops

    def _compare(self, ops: list[Op], inodes: dict[int, str]) -> None:
        """The log must tell all that was done, or the states would not be what they are said to be."""
        disk = Disk(self._settled)
        disk.learn(inodes)
        for op in ops:
            disk.apply(op)
        state = next(disk.states(len(ops), random.Random(1), 0))
        found = {
            str(path.relative_to(self._place)): None if path.is_dir() else path.read_bytes()
            for path in self._place.rglob("*")
        }
        assert state.content.keys() == found.keys(), sorted(state.content.keys() ^ found.keys())
        for name, content in found.items():
            assert content == state.content[name], f"{name} is not what the log says"

    def run(self, chosen: set[int], more: int, seed: int) -> Iterator[tuple[int, int, list[str]]]:
        """For each chosen entry how many states were tried, `more` of them random, and what is wrong."""
        events: list[Event] = []
        for cut, op in enumerate(self._ops):
            self._disk.apply(op)
            if op.kind == "note":
                events.append(json.loads(op.path))
            if op.kind in ("open", "opened") or cut not in chosen:
                continue
            lines: list[str] = []
            before = self.tried
            # The same states of an entry, whichever others are tried.
            for state in self._disk.states(cut, random.Random(f"{seed} {cut}"), more):
                if self._is_new(state, len(events)):
                    where = f"after {cut} ({op.kind} {op.path or op.inode}), {state.how}"
                    lines += [f"{where}: {what}" for what in self._try(state, events)]
            yield cut, self.tried - before, lines

    def _is_new(self, state: State, events: int) -> bool:
        hasher = hashlib.sha256(str(events).encode())
        for name, content in sorted(state.content.items()):
            hasher.update(f"{name}\0{len(content or b'')}\0".encode())
            hasher.update(content or b"")
        digest = hasher.digest()
        new = digest not in self._seen
        self._seen.add(digest)
        return new

    def _try(self, state: State, events: list[Event]) -> list[str]:
        """What is wrong with a state once it is opened again, and used."""
        self.tried += 1
        shutil.rmtree(self._place)
        self._place.mkdir()
        materialize(state, self._place)

        def run(say: Say) -> None:
            model = Model(DEVICE_BYTES, BASE)
            for event in events:
                model.feed(event)
            model.lose_power()
            for name in sorted(model.made):
                if not os.path.exists(self._place / name):
                    say(["wrong", f"{name} is lost, though its command had ended"])
            Run(str(self._place), say, model, sparse=self._sparse).clean()

        said, _ = child(run)
        return wrongs(said)


if __name__ == "__main__":
    ensure_shim("tests.sweep.crash")
    sys.exit(main())
