"""Which mutants are tried, and what came of it."""

import collections
import json
import random
from pathlib import Path


def sample(count: int, shard: str) -> set[int]:
    """Numbers of one of n random parts, all parts together being everything: `1/4` is the first of four."""
    part, parts = (int(number) for number in shard.split("/"))
    numbers = list(range(count))
    random.Random(1).shuffle(numbers)
    return set(numbers[part - 1 :: parts])


def report(log: Path) -> None:
    """Print the score of each module, and what was missed."""
    results = [json.loads(line) for line in log.read_text().splitlines()]
    for result in results:
        if result["outcome"] not in ("caught", "timeout"):
            print(f"{result['outcome']}, {result['tests']} tests reach it: {result['name']}")
    for module in sorted({result["module"] for result in results}):
        outcomes = collections.Counter(r["outcome"] for r in results if r["module"] == module)
        total, caught = outcomes.total(), outcomes["caught"] + outcomes["timeout"]
        print(f"{module}: {caught} of {total} caught, {outcomes['timeout']} by timeout: {caught / total:.1%}")
