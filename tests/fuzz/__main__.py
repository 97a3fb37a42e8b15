"""Fuzzes one target for long, led by coverage if atheris is there: `python -m tests.fuzz TARGET RUNS DIR`.

What is found goes to the directory. Without atheris RUNS is a goal, to which what earlier runs did counts.
atheris (`pip install atheris`) is not among what the targets of the Makefile need: short runs do without.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from contextlib import nullcontext
from typing import Any

try:
    atheris: Any = importlib.import_module("atheris")
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["obd", "tcmu"]) if atheris else nullcontext():
    from tests.fuzz.mutate import MAX_BYTES, Mutator
    from tests.fuzz.target import Target, check
    from tests.fuzz.targets import TARGETS

# Inputs between two notes of how many there were.
SLICE = 20_000


def _led(target: Target, runs: int, directory: str) -> None:
    """By coverage: half of the mutations are libFuzzer's, half those of documents."""
    corpus = os.path.join(directory, "corpus", target.name)
    os.makedirs(corpus, exist_ok=True)
    for number, data in enumerate(target.seeds):
        with open(os.path.join(corpus, f"seed-{number}"), "wb") as file:
            file.write(data)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        if seed % 2:
            return bytes(atheris.Mutate(data, most))
        return Mutator((data, *target.seeds), target.words, seed).next()[:most]

    options = [
        f"-runs={runs}",
        f"-max_len={MAX_BYTES}",
        "-rss_limit_mb=2048",
        "-timeout=60",
        "-print_final_stats=1",
    ]
    options += ["-print_pcs=0", f"-artifact_prefix={directory}/{target.name}-", corpus]
    atheris.Setup([target.name, *options], lambda data: check(target, data), custom_mutator=mutate)
    atheris.Fuzz()


def _blind(target: Target, goal: int, directory: str) -> None:
    """By the mutator alone, from another start each time, until `goal` runs were made with this directory."""
    tally = os.path.join(directory, f"{target.name}.runs")
    done = _number_in(tally)
    while done < goal:
        inputs, end = Mutator(target.seeds, target.words, time.time_ns()), min(goal, done + SLICE)
        for _ in range(end - done):
            data = inputs.next()
            try:
                check(target, data)
            except Exception:
                with open(os.path.join(directory, f"{target.name}-crash"), "wb") as file:
                    file.write(data)
                raise
        done = end
        with open(tally, "w") as file:
            file.write(f"{done}\n")
    print(f"{target.name}: {done} runs, {time.process_time():.0f} s of a processor in this process")


def _number_in(path: str) -> int:
    try:
        with open(path) as file:
            return int(file.read())
    except FileNotFoundError:
        return 0


def main() -> None:
    """Runs what the command line says."""
    name, runs, directory = sys.argv[1:]
    target = next((target for target in TARGETS if target.name == name), None)
    if target is None:
        sys.exit(f"targets: {' '.join(target.name for target in TARGETS)}")
    os.makedirs(directory, exist_ok=True)
    (_led if atheris else _blind)(target, int(runs), os.path.abspath(directory))


if __name__ == "__main__":
    main()
