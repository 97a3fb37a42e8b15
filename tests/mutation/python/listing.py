"""Prints mutants of Python files as lines of JSON; runs with mutmut on its path, as a program of its own."""

import ast
import collections
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libcst as cst  # type: ignore[import-not-found, unused-ignore]
from libcst.metadata import (  # type: ignore[import-not-found, unused-ignore]
    MetadataWrapper,
    PositionProvider,
)
from mutmut.mutation.file_mutation import (  # type: ignore[import-not-found, unused-ignore]
    MutationVisitor,
    deep_replace,
)
from mutmut.mutation.mutators import (  # type: ignore[import-not-found, unused-ignore]
    mutation_operators,
)
from mutmut.mutation.pragma_handling import (  # type: ignore[import-not-found, unused-ignore]
    IgnoredCode,
)

# What people read has two words next to each other; names of files, keys and URLs have not.
WORDS = re.compile(r"[A-Za-z]{2,}[,:;]? \(?[A-Za-z]{2,}")
TOKENS = re.compile(r"\w+|\s+|[=!<>+*/|&-]+|.")


def text_of(node: Any) -> str | None:
    """The text of a string, what is put into it being left out; None for what is no string."""
    if isinstance(node, cst.ConcatenatedString):
        return f"{text_of(node.left)}{text_of(node.right)}"
    if isinstance(node, cst.FormattedString):
        return "".join(
            part.value if isinstance(part, cst.FormattedStringText) else "{}" for part in node.parts
        )
    return str(node.value)[1:-1] if isinstance(node, cst.SimpleString) else None


class Visitor(MutationVisitor):  # type: ignore[misc, unused-ignore]
    """All that mutmut makes, also of what is decorated, but words for people and bare limits."""

    def __init__(self) -> None:
        super().__init__(mutation_operators, IgnoredCode(set(), set(), set()))
        self._raised = 0

    def _is_message(self, node: Any) -> bool:
        text = text_of(node)
        if text is None:
            return False
        return bool(WORDS.search(text)) or (self._raised > 0 and (" " in text or "{}" in text))

    def on_visit(self, node: Any) -> bool:
        """Leave out what makes no mutants."""
        self._raised += isinstance(node, cst.Raise)
        return bool(super().on_visit(node))

    def on_leave(self, original_node: Any) -> None:
        """Note where a `raise` ends."""
        self._raised -= isinstance(original_node, cst.Raise)
        super().on_leave(original_node)

    def _skip_node_and_children(self, node: Any) -> bool:
        if isinstance(node, cst.FunctionDef):
            return False
        if isinstance(node, cst.Call) and cst.Module([]).code_for_node(node.func).startswith("_log."):
            return True
        if isinstance(node, (cst.Assign, cst.AnnAssign)) and is_settled(node):
            return bool(self.get_metadata(PositionProvider, node).start.column == 0)
        return self._is_message(node) or bool(super()._skip_node_and_children(node))

    def _create_mutations(self, node: Any) -> None:
        known = len(self.mutations)
        super()._create_mutations(node)
        if isinstance(node, cst.Call):
            # Without its words, or with none in their place, a call says something else to people alone.
            said = {id(arg) for arg in node.args if self._is_message(arg.value)}
            self.mutations[known:] = [
                mutation
                for mutation in self.mutations[known:]
                if said <= {id(arg) for arg in getattr(mutation.mutated_node, "args", node.args)}
            ]


def is_settled(node: Any) -> bool:
    """Whether a name gets numbers alone, as limits and times do, or is for checkers of types."""
    target = node.target if isinstance(node, cst.AnnAssign) else node.targets[0].target
    return getattr(target, "value", "") in ("__all__", "TYPE_CHECKING") or is_bare(node.value)


def is_bare(value: Any) -> bool:
    """Whether a value is made of numbers alone."""
    if isinstance(value, cst.BinaryOperation):
        return is_bare(value.left) and is_bare(value.right)
    return isinstance(value, (cst.Integer, cst.Float))


def difference(old: str, new: str) -> tuple[str, str]:
    """Two texts without what they begin and end with alike."""
    olds, news = (TOKENS.findall(" ".join(text.split())) for text in (old, new))
    shorter = min(len(olds), len(news))
    begin = next((n for n in range(shorter) if olds[n] != news[n]), shorter)
    end = next((n for n in range(shorter - begin) if olds[-1 - n] != news[-1 - n]), shorter - begin)
    return "".join(olds[begin : len(olds) - end]), "".join(news[begin : len(news) - end])


def functions(tree: ast.Module) -> list[tuple[int, int, str]]:
    """First line, last line and name of each function and class, outer ones first."""
    found: list[tuple[int, int, str]] = []

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.append((child.lineno, child.end_lineno or child.lineno, prefix + child.name))
                visit(child, f"{prefix}{child.name}.")
            else:
                visit(child, prefix)

    visit(tree, "")
    return found


def mutants(root: Path, name: str) -> Iterator[dict[str, Any]]:
    """The mutants of one file, with all of its text."""
    source = (root / name).read_text()
    tree = ast.parse(source)
    places = functions(tree)
    seen = {source}
    wrapper = MetadataWrapper(cst.parse_module(source))
    visitor = Visitor()
    wrapper.visit(visitor)
    positions = wrapper.resolve(PositionProvider)
    lines = source.splitlines(keepends=True)
    titles: collections.Counter[str] = collections.Counter()
    for mutation in visitor.mutations:
        text = deep_replace(wrapper.module, mutation.original_node, mutation.mutated_node).code
        try:
            compile(text, name, "exec")
        except SyntaxError:
            continue
        if text in seen:
            continue
        seen.add(text)
        position = positions.get(mutation.original_node)
        if position is None:
            # Operators and the like stand nowhere: where the text begins to differ, then.
            new_lines = text.splitlines(keepends=True)
            line = next(n for n, (old, new) in enumerate(zip(lines, new_lines, strict=False)) if old != new)
            old, new = lines[line], new_lines[line]
            column = next((n for n, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), 0)
            line += 1
        else:
            line, column = position.start.line, position.start.column
            old = wrapper.module.code_for_node(mutation.original_node)
            new = wrapper.module.code_for_node(mutation.mutated_node)
        before, after = difference(old, new)
        function = [place for first, last, place in places if first <= line <= last]
        within = f" in {function[-1]}" if function else ""
        title = f"{name}:{line}:{column + 1}: replace `{before}` with `{after}`{within}"
        titles[title] += 1
        title += f", {titles[title]}" if titles[title] > 1 else ""
        yield {"name": title, "file": name, "line": line, "column": column, "source": text}


if __name__ == "__main__":
    for argument in sys.argv[2:]:
        for mutant in mutants(Path(sys.argv[1]), argument):
            print(json.dumps(mutant))
