"""Parsers of foreign bytes in Python: a short run of each fuzz target, and inputs that were trouble once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.mutate import Mutator
from tests.fuzz.target import Target, check
from tests.fuzz.targets import TARGETS

# Inputs of a short run of each target. `python -m tests.fuzz` makes long ones.
RUNS = 1000
REGRESSIONS = Path(__file__).parent / "regressions"

each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@each_target
def test_seeds_are_good(target: Target) -> None:
    for data in target.seeds:
        target.run(data)


@each_target
def test_a_short_run(target: Target) -> None:
    inputs = Mutator(target.seeds, target.words)
    for number in range(RUNS):
        data = inputs.next()
        try:
            check(target, data)
        except Exception as error:
            raise AssertionError(f"input {number}: {data!r}") from error


@each_target
def test_what_was_trouble_once(target: Target) -> None:
    for path in sorted((REGRESSIONS / target.name).glob("*")):
        check(target, path.read_bytes())
