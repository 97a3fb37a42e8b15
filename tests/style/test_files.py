"""Size and shape of the source files: one idea each, said in the first line, short enough to read."""

import ast
import re
from pathlib import Path

import pytest

from tests.style import tree

LINE = {".py": 110, ".pyi": 120, ".rs": 120}
LINES = 400
LINES_OF_TESTS = 600
# One module has one stub, however much it offers.
LINES_OF_STUB = 1000

SOURCES = [file for file in tree.with_suffix(*LINE) if "golden" not in file.parts]

# Folders where people build: none of them means anything to others.
HOMES = re.compile(r"/home/[a-z]\w*/|/Users/\w+/")


def is_test(file: Path) -> bool:
    """Whether a file holds tests, which may be longer."""
    return "tests" in file.parts or file.stem in ("tests", "conftest")


@pytest.mark.parametrize("file", SOURCES, ids=str)
def test_lines_fit(file: Path) -> None:
    limit = LINE[file.suffix]
    long = [number for number, line in enumerate(tree.text(file).split("\n"), 1) if len(line) > limit]
    assert not long, f"{file}: lines {long} are longer than {limit}"


@pytest.mark.parametrize("file", SOURCES, ids=str)
def test_file_is_not_two(file: Path) -> None:
    limit = LINES_OF_TESTS if is_test(file) else LINES_OF_STUB if file.suffix == ".pyi" else LINES
    count = tree.text(file).count("\n")
    assert count <= limit, f"{file} has {count} lines, more than {limit}: it wants to be two"


@pytest.mark.parametrize("file", SOURCES, ids=str)
def test_first_line_says_the_idea(file: Path) -> None:
    if file.suffix == ".rs":
        assert tree.text(file).startswith("//! "), f"{file} does not begin with `//! ` and its one idea"
        return
    doc = ast.get_docstring(tree.syntax(file)) or ""
    first = doc.split("\n")[0]
    assert first.endswith((".", "?", "!")), f"{file}: no first docstring line that is a sentence"


def test_no_path_of_a_build_machine() -> None:
    here = [str(tree.ROOT)] if len(tree.ROOT.parts) > 2 else []
    found = [
        f"{file}:{number}"
        for file in tree.files()
        if file.suffix not in (".zst", ".bin") and "golden" not in file.parts and "corpus" not in file.parts
        for number, line in enumerate((tree.ROOT / file).read_text(errors="replace").split("\n"), 1)
        if HOMES.search(line) or any(path in line for path in here)
    ]
    assert not found, f"paths of somebody's machine: {found}"
