"""Has modules come from another tree where that has them; on the path of every process of a test."""

import builtins
import importlib.machinery
import importlib.util
import mmap
import os
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType


class Loader(importlib.machinery.SourceFileLoader):
    """Compiles another file's text as if it stood in this one; nothing of it is kept."""

    def __init__(self, name: str, path: str, instead: str) -> None:
        super().__init__(name, path)
        self._instead = instead

    def get_code(self, fullname: str) -> CodeType:
        """The code of the other file."""
        with open(self._instead, "rb") as file:
            return compile(file.read(), self.path, "exec", dont_inherit=True)


class Finder(importlib.machinery.PathFinder):
    """Finds what `MUTANT_TREE` has, in place of what `MUTANT_ROOT` has."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The place of a module that is to come from the other tree; None for all others."""
        tree, root = os.environ.get("MUTANT_TREE"), os.environ.get("MUTANT_ROOT")
        if not tree or not root:
            return None
        stem = fullname.replace(".", "/")
        for name in (f"{stem}.py", f"{stem}/__init__.py"):
            if os.path.exists(f"{tree}/{name}"):
                loader = Loader(fullname, f"{root}/{name}", f"{tree}/{name}")
                return importlib.util.spec_from_file_location(fullname, f"{root}/{name}", loader=loader)
        return None


def reached() -> mmap.mmap | bytearray:
    """What marks of the modules go to: memory that all processes of a test share."""
    if name := os.environ.get("MUTANTS_REACHED"):
        with open(name, "r+b") as file:
            return mmap.mmap(file.fileno(), 0)
    return bytearray()


sys.meta_path.insert(0, Finder)
if "MUTANTS_REACHED" in os.environ:
    builtins.__mutants_reached__ = reached()  # type: ignore[attr-defined]
