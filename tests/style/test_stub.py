"""The typed stub of the native module says what the built module has, name by name."""

import ast
import inspect
from pathlib import Path

import pytest

import obdcore
from tests.style import tree

STUB = {
    node.name: node
    for node in tree.syntax(Path("obdcore.pyi")).body
    if isinstance(node, ast.ClassDef | ast.FunctionDef)
    # A protocol is what the core asks of Python: there is nothing of it in the module.
    if not (isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases))
}
BUILT = {name: value for name, value in vars(obdcore).items() if callable(value) and not name.startswith("_")}


def parameters(node: ast.FunctionDef) -> list[tuple[str, bool, bool]]:
    """Name, whether by keyword only, whether optional, of the parameters in the stub but `self`."""
    args = node.args
    required = len(args.args) - len(args.defaults)
    found = [(arg.arg, False, number >= required) for number, arg in enumerate(args.args)]
    found += [
        (arg.arg, True, default is not None)
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    ]
    return [row for row in found if row[0] != "self"]


def built_parameters(function: object) -> list[tuple[str, bool, bool]]:
    """The same of a built function."""
    assert callable(function)
    return [
        (one.name, one.kind is one.KEYWORD_ONLY, one.default is not one.empty)
        for one in inspect.signature(function).parameters.values()
        if one.name != "self"
    ]


def test_same_names() -> None:
    assert set(BUILT) == set(STUB)


@pytest.mark.parametrize("name", sorted(set(STUB) & set(BUILT)))
def test_same_shape(name: str) -> None:
    stub, built = STUB[name], BUILT[name]
    if isinstance(stub, ast.FunctionDef):
        assert built_parameters(built) == parameters(stub)
        return
    if issubclass(built, BaseException):
        return  # its attributes are set on each instance
    methods = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    public = {member for member in vars(built) if not member.startswith("_")}
    assert public == {member for member in methods if not member.startswith("_")}
    for method, node in methods.items():
        if method == "__init__":
            assert built_parameters(built) == parameters(node), f"{name}()"
        elif not node.decorator_list and not method.startswith("_"):
            assert built_parameters(getattr(built, method)) == parameters(node), f"{name}.{method}"
