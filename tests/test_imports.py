"""Do imports point one way, and does each debugger's module stay in its adapter (DESIGN.md §2)?"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What may import what: a layer those above it in this list, and its own; the first one nothing of ours.  All may
# import the foundation, whose modules import nothing of ours.
FOUNDATION = frozenset({"charset", "imports", "lean"})
LAYERS = (
    ("errors", "files", "guards", "model"),
    ("helper", "target", "host", "model_windows", "winmodel", "wintarget"),
    ("memory", "layouts"),
    ("elf", "pe"),
    ("loaders", "winkernel", "dumps"),
    ("analysis",),
    ("views", "views_plan", "views_trace", "views_dll", "views_dlltrace", "views_share", "render"),
    ("commands",),
    ("cli", "api"),
)
RANKS = {**dict.fromkeys(FOUNDATION, 0), **{name: rank for rank, names in enumerate(LAYERS) for name in names}}
ADAPTERS = {"gdb_ext": "gdb", "lldb_ext": "lldb", "windbg_ext": "pykd"}
FOLDERS = {"common", "tests", *ADAPTERS}
# Run as files, not as modules of a package: these register the package dlwhy and import from it by that name.
ENTRY_SCRIPTS = {
    "__main__.py",
    "gdb_ext/dlwhy_gdb.py",
    "lldb_ext/dlwhy_lldb.py",
    "windbg_ext/dlwhy_windbg.py",
}
STANDARD_LIBRARY = {
    *sys.builtin_module_names,
    *getattr(sys, "stdlib_module_names", ()),  # since 3.10
    *(entry.name.partition(".")[0] for entry in Path(os.__file__).parent.iterdir()),
}


def module_files() -> list[PurePosixPath]:
    """List the Python files of the package, relative to the root."""
    found = [ROOT / "__init__.py", *ROOT.glob("__main__.py")]
    for folder in ("common", *ADAPTERS):
        found += (ROOT / folder).rglob("*.py")
    return [PurePosixPath(path.relative_to(ROOT)) for path in sorted(found)]


def imported(path: PurePosixPath, tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Give line, dotted name and whether it is ours for each import of a file; ours without `dlwhy.`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, False
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or "", False
        elif isinstance(node, ast.ImportFrom):
            package = path.parts[: len(path.parts) - node.level]
            for alias in node.names:
                yield node.lineno, ".".join([*package, *(node.module or alias.name).split(".")]), True


def layer(name: str) -> str:
    """Give the layer or adapter that a dotted name of ours belongs to."""
    parts = name.split(".")
    return parts[1] if parts[0] == "common" and len(parts) > 1 else parts[0]


def find_violations(path: PurePosixPath, source: str) -> list[str]:
    """List what is wrong with the imports of one file of the package."""
    here = layer(".".join(path.with_suffix("").parts))
    wrong = []
    if path.parts[0] == "common" and len(path.parts) > 1 and path.stem != "__init__" and here not in RANKS:
        wrong.append(f"{path}: {here} has no place in LAYERS")
    for line, name, ours in imported(path, ast.parse(source)):
        if not ours and name.split(".")[0] == "dlwhy" and str(path) in ENTRY_SCRIPTS:
            name, ours = name.partition(".")[2], True
        problem = judge(here, name) if ours else judge_foreign(here, name)
        if problem:
            wrong.append(f"{path}:{line}: {problem}")
    return wrong


def judge(here: str, name: str) -> str | None:
    """Say what is wrong with an import of something of ours, None if nothing is."""
    there = layer(name)
    if there in ADAPTERS and there != here:
        return f"imports from the adapter {there}"
    if here in ADAPTERS or here not in RANKS or there in (here, "__version__"):
        return None
    if there in FOUNDATION and here not in FOUNDATION:
        return None
    if there not in RANKS:
        return f"imports {name}, which has no place in LAYERS"
    if RANKS[there] > RANKS[here] or RANKS[here] == 0:
        return f"{here} imports {there}, which stands above it"
    return None


def judge_foreign(here: str, name: str) -> str | None:
    """Say what is wrong with an absolute import, None if nothing is."""
    top = name.split(".")[0]
    if top in FOLDERS or top == "dlwhy":
        return f"imports {name} by an absolute name"
    if top in ADAPTERS.values() and ADAPTERS.get(here) != top:
        return f"imports the debugger's module {top}"
    return None


def test_imports_point_one_way() -> None:
    wrong = [problem for path in module_files() for problem in find_violations(path, (ROOT / path).read_text())]
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("common/model.py", "from .errors import DlwhyError", "model imports errors"),
        ("common/memory.py", "from . import errors, analysis", "memory imports analysis"),
        ("common/linux/loader/maps.py", "from ..analysis.verdict import x", "loaders imports analysis"),
        ("common/linux/loader/maps.py", "def f():\n    from ..commands import x", "loaders imports commands"),
        ("common/linux/elf/image.py", "from ...gdb_ext import target", "imports from the adapter gdb_ext"),
        ("common/linux/elf/image.py", "import gdb", "debugger's module gdb"),
        ("common/linux/elf/image.py", "from common import errors", "imports common by an absolute name"),
        ("common/linux/elf/image.py", "import dlwhy.common.errors", "by an absolute name"),
        ("common/newcomer.py", "", "newcomer has no place"),
        ("gdb_ext/target.py", "import lldb", "debugger's module lldb"),
        ("gdb_ext/target.py", "from ..lldb_ext import target", "imports from the adapter lldb_ext"),
        ("gdb_ext/dlwhy_gdb.py", "from dlwhy.lldb_ext import target", "imports from the adapter lldb_ext"),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str, expected: str) -> None:
    problems = find_violations(PurePosixPath(path), source)
    assert len(problems) == 1
    assert expected in problems[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("common/memory.py", "from . import errors, model"),
        ("common/linux/loader/maps.py", "from ..memory import Memory\nfrom .musl import x\nimport struct"),
        ("common/commands/dlstate/command.py", "from ..analysis.verdict import x\nfrom ..render import text"),
        ("gdb_ext/target.py", "import gdb\nfrom ..common.target import Target\nfrom . import commands"),
        ("gdb_ext/dlwhy_gdb.py", "import gdb\nfrom dlwhy.gdb_ext.commands import register"),
    ],
)
def test_a_right_import_passes(path: str, source: str) -> None:
    assert find_violations(PurePosixPath(path), source) == []


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    # LLDB puts the folder of an imported script on sys.path: a json.py there would shadow the real one.
    own = {part for path in module_files() for part in path.with_suffix("").parts if not part.startswith("__")}
    assert own & STANDARD_LIBRARY == set()


def test_the_entry_scripts_parse_on_python_3_6() -> None:
    present = [name for name in [*ENTRY_SCRIPTS, "install.py"] if (ROOT / name).exists()]
    assert "install.py" in present
    for name in present:
        source = (ROOT / name).read_text()
        ast.parse(source, name, feature_version=(3, 6))
        assert "from __future__ import annotations" not in source, f"{name}: 3.6 does not know it"
