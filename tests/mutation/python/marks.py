"""Marks in copies of the files: each statement says that it has been reached."""

import ast
from dataclasses import dataclass
from pathlib import Path

Place = tuple[int, int]


@dataclass(frozen=True)
class Mark:
    """One statement of a function, or the whole of a file as it is imported."""

    number: int
    file: str
    begin: Place
    end: Place
    is_import: bool = False


class _Marker(ast.NodeTransformer):
    """Puts a mark before each statement of a function."""

    def __init__(self, file: str, first: int) -> None:
        self.file = file
        self.marks = [Mark(first, file, (0, 0), (1 << 30, 0), True)]
        self._depth = 0

    def _set(self, number: int) -> ast.stmt:
        return ast.parse(f"__mutants_reached__[{number}] = 1").body[0]

    def _marked(self, body: list[ast.stmt]) -> list[ast.stmt]:
        marked: list[ast.stmt] = []
        for statement in body:
            mark = Mark(
                self.marks[0].number + len(self.marks),
                self.file,
                (statement.lineno, statement.col_offset),
                (statement.end_lineno or 0, statement.end_col_offset or 0),
            )
            self.marks.append(mark)
            marked += [self._set(mark.number), self.visit(statement)]
        return marked

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Mark what has statements, once inside of a function."""
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        outer = self._depth
        self._depth = 0 if isinstance(node, ast.ClassDef) else outer + is_function
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt) and self._depth:
                setattr(node, name, self._marked(value))
            elif isinstance(value, list):
                setattr(node, name, [self.visit(v) if isinstance(v, ast.AST) else v for v in value])
            elif isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
        self._depth = outer
        return node


def put(root: Path, names: list[str], tree: Path) -> list[Mark]:
    """Write copies of files with marks below `tree`; returns all marks."""
    marks: list[Mark] = []
    for name in names:
        marker = _Marker(name, len(marks))
        module = ast.parse((root / name).read_text())
        module = ast.fix_missing_locations(marker.visit(module))
        # Behind the docstring and what comes from the future, which must stand first.
        at = next(
            (
                n
                for n, statement in enumerate(module.body)
                if not isinstance(statement, ast.Expr) and getattr(statement, "module", None) != "__future__"
            ),
            len(module.body),
        )
        module.body.insert(at, marker._set(marker.marks[0].number))
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(ast.unparse(ast.fix_missing_locations(module)))
        marks += marker.marks
    return marks


def around(marks: list[Mark], file: str, place: Place) -> Mark:
    """The innermost statement at a place; the import of the file if it is in none of a function."""
    able = [mark for mark in marks if mark.file == file and mark.begin <= place < mark.end]
    return max(able, key=lambda mark: mark.begin)
