"""The files of the repository as the style tests see them: what is tracked or about to be."""

import ast
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The floor of each room: a room imports only from lower ones (ARCHITECTURE.md, "Rooms and floors").
FLOORS = {"obdcore": 0, "zfile": 1, "cache": 1, "tcmu": 1, "obd": 2, "tools": 3}


@functools.cache
def files() -> tuple[Path, ...]:
    """All files that git tracks or would track, relative to the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    return tuple(sorted(Path(name) for name in out.split("\0") if name and (ROOT / name).is_file()))


def with_suffix(*suffixes: str) -> list[Path]:
    """The files of some kinds, such as `.py`."""
    return [file for file in files() if file.suffix in suffixes]


@functools.cache
def text(file: Path) -> str:
    """The text of a file given relative to the root."""
    return (ROOT / file).read_text(encoding="utf-8")


@functools.cache
def syntax(file: Path) -> ast.Module:
    """The syntax tree of a Python file given relative to the root."""
    return ast.parse(text(file), str(file))


def module_name(file: Path) -> str:
    """The dotted name of a Python file: `obd/registry.py` is `obd.registry`, `obd/__init__.py` is `obd`."""
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[str]:
    """Dotted names that a file imports, anywhere in it; `from a import b` gives both `a` and `a.b`."""
    package = file.with_suffix("").parts[:-1]
    for node in ast.walk(syntax(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
