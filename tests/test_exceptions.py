"""Does code that catches every exception stand only where DESIGN.md §6 allows it?"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from dlwhy.tests.support.tree import ROOT, module_files

#: File and function: the guards around an optional package and around a debugger's handler, and the command runner.
ALLOWED = {
    ("common/guards.py", "try_optional"),
    ("common/guards.py", "call_handler"),
    ("common/commands/run.py", "attempt"),
}
EVERYTHING = {"Exception", "BaseException"}


def names_of(node: ast.expr | None) -> set[str]:
    """Return the names of the classes that an ``except`` catches; of a bare one, that of the base of all."""
    if node is None:
        return {"BaseException"}
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def catches_all(node: ast.AST) -> bool:
    """Return True if a node catches every exception, and is not only there to clean up before it goes on."""
    if isinstance(node, ast.ExceptHandler):
        last = node.body[-1]
        goes_on = isinstance(last, ast.Raise) and last.exc is None
        return bool(names_of(node.type) & EVERYTHING) and not goes_on
    if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        return name == "suppress" and any(names_of(each) & EVERYTHING for each in node.args)
    return False


def find_places(node: ast.AST, function: str = "") -> Iterator[tuple[str, int]]:
    """Yield function and line of each place that catches every exception."""
    for child in ast.iter_child_nodes(node):
        inside = child.name if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
        if catches_all(child):
            yield inside, getattr(child, "lineno", 0)
        yield from find_places(child, inside)


def test_only_the_guards_catch_everything() -> None:
    found = {
        (str(path), function)
        for path in [*module_files(), ROOT / "install.py"]
        for function, _ in find_places(ast.parse((ROOT / path).read_text()))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "try: x\nexcept: pass",
        "try: x\nexcept Exception as e: raise ValueError from e",
        "try: x\nexcept (OSError, BaseException): y",
        "with suppress(Exception): x",
        "with contextlib.suppress(OSError, Exception): x",
    ],
)
def test_a_place_is_found(source: str) -> None:
    assert len(list(find_places(ast.parse(source)))) == 1


@pytest.mark.parametrize(
    "source",
    ["try: x\nexcept OSError: pass", "try: x\nexcept BaseException:\n    close()\n    raise", "suppress(OSError)"],
)
def test_what_is_allowed_passes(source: str) -> None:
    assert list(find_places(ast.parse(source))) == []
