"""Runs tests on mutants: first which tests reach which, then each against those, nearest first."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutation.build import CRATE, Program

# A slow machine must not be taken for a loop without end: seconds, and times what the tests took.
PATIENCE_S, PATIENCE = 20.0, 8.0
# A mutant may ask for any amount of memory; the tests need far less.
MEMORY = 6 << 30
# Tests of one process: as long as the first few, which mostly notice, then more.
STEPS_S = (1.0, 5.0, 20.0, float("inf"))


@dataclass(frozen=True)
class Test:
    """One test and what it took with no mutant on."""

    program: str
    name: str
    seconds: float
    reaches: frozenset[int]

    def near(self, module: str) -> bool:
        """Whether it stands in the module, or in the folder that is named after it."""
        return self.name.startswith(f"{module}::") or f"/{module}-" in self.program


def tried(program: str, names: list[str], tree: Path, timeout_s: float, **switch: str) -> tuple[str, str]:
    """Run tests in a process of their own; returns `passed`, `failed` or `timeout`, and what it said."""
    folder = tempfile.mkdtemp(prefix="mutant-")
    env = os.environ | switch | {"TMPDIR": folder, "PROPTEST_RNG_SEED": "1", "RUST_BACKTRACE": "0"}
    command = [program, "--exact", "--test-threads=1", *names]
    running = subprocess.Popen(
        command,
        cwd=tree / CRATE,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    try:
        said = running.communicate(timeout=timeout_s)[0].decode(errors="replace")
        return ("failed" if running.returncode else "passed"), said
    except subprocess.TimeoutExpired:
        return "timeout", ""
    finally:
        # What the test has started goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        if running.stdout:
            running.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def reach(program: Program, name: str, tree: Path, count: int) -> Test | None:
    """Run one test alone to see which mutants it reaches; None if it does not pass."""
    with tempfile.NamedTemporaryFile(prefix="reached-") as reached:
        reached.truncate(count)
        begin = time.monotonic()
        # A number that is no mutant's: the test must pass also where a panic ends the process.
        switch = {"MUTANTS_REACHED": reached.name, "MUTANT_ON": str(count)}
        outcome, _ = tried(program.path, [name], tree, 600, **switch)
        seconds = time.monotonic() - begin
        if outcome != "passed":
            print(f"left out, since it is {outcome} where a panic ends the process: {name}", flush=True)
            return None
        seen = frozenset(number for number, byte in enumerate(Path(reached.name).read_bytes()) if byte)
        return Test(program.path, name, seconds, seen)


def reached_by(programs: list[Program], tree: Path, count: int, workers: int) -> list[Test]:
    """All tests that reach a mutant."""
    with ThreadPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(reach, program, name, tree, count) for program in programs for name in program.tests
        ]
        tests = [job.result() for job in jobs]
    return [test for test in tests if test and test.reaches]


def portions(tests: list[Test]) -> Iterator[list[Test]]:
    """Tests of one process each, the first ones short."""
    for program in dict.fromkeys(test.program for test in tests):
        left = [test for test in tests if test.program == program]
        for step in STEPS_S:
            portion: list[Test] = []
            while left and (not portion or sum(test.seconds for test in portion) + left[0].seconds <= step):
                portion.append(left.pop(0))
            if portion:
                yield portion


def attempt(
    number: int, mutant: dict[str, Any], tests: list[Test], tree: Path, budget_s: float
) -> dict[str, Any]:
    """Try one mutant by the tests that reach it until one notices."""
    module = module_of(mutant)
    able = sorted(
        (test for test in tests if number in test.reaches),
        key=lambda test: (not test.near(module), test.seconds),
    )
    result = {"name": mutant["name"], "module": module, "outcome": "missed", "tests": len(able), "by": ""}
    spent = 0.0
    for portion in portions(able):
        seconds = sum(test.seconds for test in portion)
        if spent and spent + seconds > budget_s:
            result["outcome"] = "missed in time"
            break
        spent += seconds
        names = [test.name for test in portion]
        timeout_s = PATIENCE_S + PATIENCE * seconds
        outcome, said = tried(portion[0].program, names, tree, timeout_s, MUTANT_ON=str(number))
        if outcome != "passed":
            running = [
                line for line in said.split("\n") if line.startswith("test ") and not line.endswith("... ok")
            ]
            result |= {"outcome": "caught" if outcome == "failed" else "timeout", "by": (running or names)[0]}
            break
    return result


def module_of(mutant: dict[str, Any]) -> str:
    """The module that a mutant is in: the folder of the crate."""
    return str(mutant["file"]).split("/")[2]


def run(
    mutants: list[tuple[int, dict[str, Any]]],
    tests: list[Test],
    tree: Path,
    log: Path,
    workers: int,
    budget_s: float,
) -> None:
    """Try mutants, a line of the log each."""
    with ThreadPoolExecutor(workers) as pool, log.open("a") as out:
        jobs = [pool.submit(attempt, number, mutant, tests, tree, budget_s) for number, mutant in mutants]
        for job in as_completed(jobs):
            out.write(json.dumps(job.result()) + "\n")
            out.flush()
