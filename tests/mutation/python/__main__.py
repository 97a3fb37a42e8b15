"""Tries mutants of Python; started by `tests.mutation`, with the folder `hook` on Python's path."""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.mutation.python import ROOMS, fork, marks, reach
from tests.mutation.report import report, sample

# The list that the figures in docs/reliability.md are of.
MUTMUT = ("mutmut==3.8.0", "libcst==1.9.0")
# Files of tests that may notice; of those, what takes longer than a moment tries no mutant.
TESTS = (
    *(
        "tests/unit/test_*.py",
        "tests/fuzz/test_*.py",
        "tests/e2e/test_zfile_tool.py",
        "tests/e2e/test_pull.py",
    ),
    *("tests/e2e/test_download.py", "tests/e2e/test_trace.py", "tests/e2e/test_prefetch_list.py"),
    *("tests/e2e/test_obd_trace.py", "tests/e2e/test_cache_types.py", "tests/e2e/test_obd_copy.py"),
    *("tests/e2e/test_oci_faults.py", "tests/e2e/test_upload.py", "tests/e2e/test_obd_registry.py"),
    *("tests/e2e/test_switch.py", "tests/e2e/test_file_modes.py"),
)
# A slow machine must not be taken for a loop without end: seconds, and times what the tests took.
PATIENCE_S, PATIENCE = 20.0, 8.0
# Tests of one process: as long as the nearest few, which mostly notice, then more.
STEPS_S = (0.5, 3.0, 10.0, float("inf"))


def mutants_of(names: list[str], work: Path) -> list[dict[str, Any]]:
    """All mutants of some files; those of a file are kept until it changes."""
    home, kept = work / "mutmut", work / "lists"
    if not (home / "mutmut").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(home)]
        subprocess.run([*command, *MUTMUT], check=True)
    kept.mkdir(exist_ok=True)
    program = Path(__file__).with_name("listing.py")
    found = []
    for name in names:
        key = hashlib.sha256(program.read_bytes() + name.encode() + (fork.ROOT / name).read_bytes())
        path = kept / f"{key.hexdigest()}.jsonl"
        if not path.exists():
            command = [sys.executable, str(program), str(fork.ROOT), name]
            env = os.environ | {"PYTHONPATH": str(home)}
            path.write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env).stdout)
        found += [json.loads(line) for line in path.read_text().splitlines()]
    return found


def nearest_first(mutant: dict[str, Any], tests: list[reach.Test], total: dict[str, int]) -> list[reach.Test]:
    """Tests in the order in which they are tried: those of a file that is about this before others."""
    place = Path(mutant["file"])

    def distance(file: str) -> tuple[bool, bool, bool, float, str]:
        here = [test for test in tests if test.file == file]
        foreign = [name not in Path(file).stem for name in (place.stem, place.parent.name)]
        return "/unit/" not in file, foreign[0], foreign[1], -len(here) / total[file], file

    order = {file: number for number, file in enumerate(sorted({test.file for test in tests}, key=distance))}
    return sorted(tests, key=lambda test: (order[test.file], test.seconds))


def portions(tests: list[reach.Test]) -> Iterator[list[reach.Test]]:
    """Tests of one process each, the first ones short."""
    left = list(tests)
    for step in STEPS_S:
        portion: list[reach.Test] = []
        while left and (not portion or sum(test.seconds for test in portion) + left[0].seconds <= step):
            portion.append(left.pop(0))
        if portion:
            yield portion


def attempt(
    mutant: dict[str, Any], module: str, tests: list[reach.Test], out: Path, budget_s: float
) -> dict[str, Any]:
    """Try one mutant by the tests that reach it, in this order, until one notices."""
    result = {"name": mutant["name"], "module": module, "outcome": "missed", "tests": len(tests), "by": ""}
    tree = Path(f"{out}.tree")
    shutil.rmtree(tree, ignore_errors=True)
    target = tree / mutant["file"]
    target.parent.mkdir(parents=True)
    target.write_text(mutant["source"])
    env = {"MUTANT_TREE": str(tree), "MUTANT_ROOT": str(fork.ROOT)}
    spent = 0.0
    for portion in portions(tests):
        seconds = sum(test.seconds for test in portion)
        if spent and spent + seconds > budget_s:
            result["outcome"] = "missed in time"
            break
        spent += seconds
        files, names = list(dict.fromkeys(test.file for test in portion)), [test.name for test in portion]
        found = fork.run(files, names, env, PATIENCE_S + PATIENCE * seconds, out)
        # 5: no test is left under its name, which nobody has noticed.
        if found is None or found["status"] not in (0, 5):
            result["outcome"] = "caught" if found else "timeout"
            result["by"] = (found or {}).get("failed") or names[0]
            break
    return result


def main() -> None:
    """List, look, try, report."""
    parser = argparse.ArgumentParser(prog="tests.mutation.python", description=__doc__)
    parser.add_argument("--module", choices=ROOMS, default="python")
    parser.add_argument("--shard", default="1/1")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--budget", type=float, default=30)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", type=Path, help="a file of names of mutants: those alone")
    args = parser.parse_args()
    work: Path = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(fork.ROOT)
    listing = ["git", "ls-files", *(f"{room}/*.py" for room in ROOMS["python"])]
    names = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
    tests = sorted({str(path) for pattern in TESTS for path in Path().glob(pattern)})
    fork.preload()
    all_marks, reached = reach.reached_by(tests, names, work, args.jobs)
    total = {file: sum(test.file == file for test in reached.tests) for file in tests}

    log = work / "outcomes.jsonl"
    log.unlink(missing_ok=True)
    only = set(args.only.read_text().splitlines()) if args.only else None
    for room in ROOMS[args.module]:
        mutants = mutants_of([name for name in names if name.startswith(f"{room}/")], work)
        chosen = sample(len(mutants), args.shard)
        todo = [
            mutant
            for number, mutant in enumerate(mutants)
            if (number in chosen if only is None else mutant["name"] in only)
        ]
        # What is interrupted has tried a random part.
        random.Random(1).shuffle(todo)
        print(f"{room}: {len(mutants)} mutants, {len(todo)} to try", flush=True)

        def do(mutant: dict[str, Any], out: Path, room: str = room) -> dict[str, Any]:
            mark = marks.around(all_marks, mutant["file"], (mutant["line"], mutant["column"]))
            of_file = frozenset(mark.number for mark in all_marks if mark.file == mutant["file"])
            able = nearest_first(mutant, reached.able(mark, of_file), total)
            return attempt(mutant, room, able, out, args.budget)

        fork.share(todo, args.jobs, do, log, work)
    report(log)


if __name__ == "__main__":
    main()
