"""Tries mutants of formats and cache: `make mutants MODULE=lsmt SHARD=1/4`, or all of them."""

import argparse
import collections
import os
import subprocess
import sys
from pathlib import Path

from tests.mutation import build, run
from tests.mutation.python import ROOMS
from tests.mutation.report import report, sample

# What holds data: a mistake there is wrong bytes, or lost ones.
MODULES = ("lsmt", "cache", "zfile", "gzip", "tar", "trace", "qcow2", "erofs", "blob")
# The list that the figures in docs/reliability.md are of.
CARGO_MUTANTS = "27.1.0"


def tools(work: Path) -> Path:
    """Install cargo-mutants, which makes the list, and build what puts mutants in; returns the latter."""
    home = work / "tools"
    os.environ["PATH"] = f"{home / 'bin'}:{os.environ['PATH']}"
    if not (home / "bin/cargo-mutants").exists():
        command = ["cargo", "install", "--quiet", "--locked", "--root", str(home)]
        subprocess.run([*command, "cargo-mutants", "--version", CARGO_MUTANTS], check=True)
    manifest = build.ROOT / "core/mutants/Cargo.toml"
    command = ["cargo", "build", "--quiet", "--release", "--manifest-path", str(manifest)]
    subprocess.run([*command, "--target-dir", str(work / "rewriter")], check=True)
    return work / "rewriter/release/mutants"


def rust(args: argparse.Namespace, work: Path) -> None:
    """Build all mutants of the core, then try them."""
    tree, log = work / "tree", work / "outcomes.jsonl"
    os.environ["CARGO_TARGET_DIR"] = str(work)
    rewriter = tools(work)
    build.copy(tree)
    mutants = build.mutants_of(tree, [f"{module}/**" for module in MODULES if args.module in ("", module)])
    print(f"{len(mutants)} mutants", flush=True)
    build.settle(tree, mutants, rewriter)
    print(collections.Counter(mutant.get("without", "built") for mutant in mutants), flush=True)
    programs = build.programs(tree, "--lib", "--tests")
    tests = run.reached_by(programs, tree, len(mutants), args.jobs)
    chosen = sample(len(mutants), args.shard or "1/1")
    todo = [(n, mutant) for n, mutant in enumerate(mutants) if n in chosen and "without" not in mutant]
    print(f"{len(todo)} mutants to try, {len(tests)} tests reach some", flush=True)
    log.unlink(missing_ok=True)
    run.run(todo, tests, tree, log, args.jobs, args.budget)
    report(log)


def python(args: argparse.Namespace, work: Path) -> None:
    """Try mutants of Python, in a process that has what changes modules on its path from the start."""
    command = [sys.executable, "-m", "tests.mutation.python", "--module", args.module or "python"]
    command += ["--shard", args.shard or "1/1", "--jobs", str(args.jobs), "--budget", str(args.budget)]
    hook = build.ROOT / "tests/mutation/python/hook"
    env = os.environ | {"PYTHONPATH": str(hook)}
    subprocess.run([*command, "--work", str(work / "python")], check=True, cwd=build.ROOT, env=env)


def main() -> None:
    """The core's mutants, then Python's."""
    parser = argparse.ArgumentParser(prog="tests.mutation", description=__doc__)
    parser.add_argument(
        "--module", choices=[*MODULES, *ROOMS, ""], default="", help="one only (default: all)"
    )
    parser.add_argument("--shard", default="1/1", help="a random part of the mutants (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants tried at once")
    parser.add_argument(
        "--budget", type=float, default=60, help="seconds of tests for one mutant (default: %(default)s)"
    )
    parser.add_argument(
        "--work", type=Path, default=build.ROOT / "core/mutants/target", help="where all of it lies"
    )
    args = parser.parse_args()
    work: Path = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if args.module not in ROOMS:
        rust(args, work)
    if args.module in ("", *ROOMS):
        python(args, work)


if __name__ == "__main__":
    main()
