"""Who may import whom, and that nothing lies around unused."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.bars import BARS
from bench.vm.bars import BARS as VM_BARS
from tests.style import tree

ROOMS = [file for file in tree.with_suffix(".py") if file.parts[0] in tree.FLOORS]


@pytest.mark.parametrize("file", ROOMS, ids=str)
def test_imports_go_down(file: Path) -> None:
    room = file.parts[0]
    for name in tree.imports(file):
        other = name.split(".")[0]
        if other in tree.FLOORS and other != room:
            assert tree.FLOORS[other] < tree.FLOORS[room], f"{file} imports {name}, which is not below it"
        assert other not in ("tests", "bench"), f"{file} imports {name}: the product needs no test"


def test_only_tools_import_tools() -> None:
    users = [
        str(file)
        for file in tree.with_suffix(".py")
        if file.parts[0] not in ("tools", "tests")
        if any(name.split(".")[0] == "tools" for name in tree.imports(file))
    ]
    assert not users, f"{users} import a command: what they want of it belongs in a lower room"


def named_modules(file: Path) -> Iterator[str]:
    """Modules that a file imports or names in a string (late imports, `python -m`)."""
    yield from tree.imports(file)
    for node in ast.walk(tree.syntax(file)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_dead_module() -> None:
    """A module that no other module of the product uses, and that is no program, is dead even if tested."""
    project = tomllib.loads(tree.text(Path("pyproject.toml")))["project"]
    programs = {target.split(":")[0] for target in project.get("scripts", {}).values()}
    programs |= {"bench.run", "bench.vm.run"} | {f"bench.{name}" for name in BARS}
    programs |= {f"bench.vm.{name}" for name in VM_BARS}
    folders = (*tree.FLOORS, "bench")
    modules = [file for file in tree.with_suffix(".py") if file.parts[0] in folders]
    used = {name for file in modules for name in named_modules(file) if name != tree.module_name(file)}
    dead = [
        str(file)
        for file in modules
        if file.name not in ("__init__.py", "__main__.py")
        if tree.module_name(file) not in used | programs
    ]
    assert not dead, f"nothing uses {dead}"
