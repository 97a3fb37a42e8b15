"""Which tests reach which statements: each file of tests once, remembered for as long as nothing changes."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutation.python import fork, marks

# A test that takes longer tries no mutants.
QUICK_S = 2.0
# Time for a file of tests.
FILE_S = 600.0


@dataclass(frozen=True)
class Test:
    """One test and what it took with no mutant."""

    name: str
    seconds: float
    reaches: frozenset[int]

    @property
    def file(self) -> str:
        """The file that it stands in."""
        return self.name.partition("::")[0]


@dataclass(frozen=True)
class Reached:
    """All tests, and what the import of their files reaches."""

    tests: list[Test]
    imported: dict[str, frozenset[int]]

    def able(self, mark: marks.Mark, of_file: frozenset[int]) -> list[Test]:
        """Tests that may notice a mutant there: of what an import runs, all that run more of that file."""
        alone = len(of_file) == 1
        return [
            test
            for test in self.tests
            if mark.number in test.reaches
            or (mark.number in self.imported[test.file] and (alone or test.reaches & of_file))
        ]


def _look(file: str, tree: Path, count: int, out: Path) -> dict[str, Any]:
    reached = Path(f"{out}.reached")
    reached.write_bytes(bytes(count))
    env = {"MUTANTS_REACHED": str(reached), "MUTANT_TREE": str(tree), "MUTANT_ROOT": str(fork.ROOT)}
    found = fork.run([file], None, env, FILE_S, out)
    if found is None or found["status"] not in (0, 5):
        print(f"{file}: not all of it passes, see {out}.log; what does not counts for nothing", flush=True)
    return found or {"imported": [], "tests": {}}


def reached_by(files: list[str], names: list[str], work: Path, jobs: int) -> tuple[list[marks.Mark], Reached]:
    """Run all tests of `files` on copies of `names` with marks; not those that nothing has changed for."""
    tree, memory = work / "marked", work / "reached.jsonl"
    shutil.rmtree(tree, ignore_errors=True)
    all_marks = marks.put(fork.ROOT, names, tree)
    copies = hashlib.sha256(b"".join((tree / name).read_bytes() for name in names))

    def key(file: str) -> str:
        both = copies.copy()
        both.update((fork.ROOT / file).read_bytes())
        return both.hexdigest()

    def look(file: str, out: Path) -> dict[str, Any]:
        return _look(file, tree, len(all_marks), out) | {"file": file, "key": key(file)}

    def known() -> dict[str, dict[str, Any]]:
        lines = memory.read_text().splitlines() if memory.exists() else []
        results = {result["file"]: result for result in map(json.loads, lines)}
        return {file: results[file] for file in files if results.get(file, {}).get("key") == key(file)}

    fork.share(sorted(set(files) - set(known())), jobs, look, memory, work)
    found = known()
    tests = [
        Test(name, seconds, frozenset(numbers))
        for result in found.values()
        for name, (seconds, numbers) in result["tests"].items()
        if seconds <= QUICK_S and numbers
    ]
    return all_marks, Reached(tests, {file: frozenset(r["imported"]) for file, r in found.items()})
