"""Runs the benchmarks, holds them against the bars, prints a table and writes `bench/out/results.json`.

A benchmark is a program of its own that prints a line of JSON for each measurement,
`{"name", "value", "unit", "peer", "ratio"}`, and talks to people on stderr. Peer and ratio may be null;
value is null too where the machine cannot measure it, and peer then says why. Names are those of
`bench/bars.py`; a measurement without a bar is shown too.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.bars import BARS, Bar

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "out" / "results.json"
CARGO = ["cargo", "run", "--quiet", "--release", "--locked", "--manifest-path", "core/Cargo.toml"]

Row = dict[str, Any]
Bars = dict[str, dict[str, Bar]]


def command(benchmark: str) -> list[str]:
    """How to start a benchmark: an example of the core, or a module beside this one."""
    if (ROOT / f"core/overlaybd/examples/bench_{benchmark}.rs").exists():
        return [*CARGO, "--package", "overlaybd", "--example", f"bench_{benchmark}"]
    return [sys.executable, "-m", f"bench.{benchmark}"]


def measure(benchmark: str) -> Iterator[Row]:
    """Runs one benchmark and gives its measurements."""
    done = subprocess.run(command(benchmark), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def held(row: Row, bar: Bar | None) -> Row:
    """A measurement with its bar, and whether that is met."""
    met = bar.met(row["value"], row["ratio"]) if bar else None
    return {**row, "bar": str(bar) if bar else None, "met": met}


def number(value: float | None) -> str:
    """A number for people: four digits, or all before the point."""
    if value is None:
        return "-"
    return f"{value:,.4g}" if abs(value) < 10000 else f"{value:,.0f}"


def show(rows: list[Row]) -> None:
    """Prints the table."""
    head = ("measurement", "value", "unit", "peer", "ratio", "bar", "met")
    cells = [head]
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        met = {True: "yes", False: "NO", None: ""}[row["met"]]
        cells.append(
            (row["name"], number(row["value"]), row["unit"], row["peer"] or "", ratio, row["bar"] or "", met)
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    for line in cells:
        pairs = zip(line, widths, range(len(head)), strict=True)
        print("  ".join(c.rjust(w) if i in (1, 4) else c.ljust(w) for c, w, i in pairs).rstrip())


def wanted(bars: Bars, only: str) -> list[str]:
    """The benchmarks of a name: a benchmark, one measurement, or with the empty name all."""
    found = [name for name, measurements in bars.items() if only in ("", name) or only in measurements]
    if not found:
        sys.exit(f"no benchmark {only}; there are: {', '.join(bars)}")
    return found


def measure_all(bars: Bars, measure: Callable[[str], Iterable[Row]], results: Path) -> int:
    """Measures all, or what the one argument names; 1 if something could not be measured."""
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    rows: list[Row] = []
    failed: list[str] = []
    for benchmark in wanted(bars, only):
        print(f"running {benchmark} ...", file=sys.stderr)
        try:
            new = [held(row, bars[benchmark].get(row["name"])) for row in measure(benchmark)]
        except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
            print(f"{benchmark}: {error}", file=sys.stderr)
            failed.append(benchmark)
            continue
        asked = {only} if only in bars[benchmark] else set(bars[benchmark])
        failed += sorted(asked - {row["name"] for row in new})
        rows += [row for row in new if only in ("", benchmark, row["name"])]
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(rows, indent=1) + "\n")
    show(rows)
    missed = [row["name"] for row in rows if row["met"] is False]
    if missed:
        print(f"bars missed: {', '.join(missed)}")
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(measure_all(BARS, measure, RESULTS))
