"""Do imports point one way, do platforms, commands and debuggers stay apart?"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from dlwhy.common.commands import registry

from .support.tree import ADAPTERS, ROOT, module_files

# Rooms, lowest first: a room imports from itself and from those that stand in a line above its own.  A room is a module
# or folder of common/, by its longest name here.
ORDER = (
    ("charset", "counts"),
    ("errors", "graph", "imports"),
    ("files", "guards", "model", "paths"),
    ("helper", "target"),
    ("host", "layouts", "memory", "minidumps"),
    ("lists", "structs"),
    ("trace.events",),
    ("linux.auxv", "linux.rebuild_model", "windows.model"),
    ("linux.model",),
    ("linux.plan_model",),
    ("linux.trace.events", "windows.trace.events", "trace"),
    ("linux.elf", "linux.layouts"),
    ("windows.layouts", "windows.pe", "windows.share_rules", "windows.strings", "windows.target"),
    ("linux.loader", "windows.loader", "windows.kernel"),
    ("windows.loaded",),
    ("linux.dumps", "windows.dumps", "windows.holders", "windows.share"),
    ("linux.state", "windows.state", "windows.crash"),
    ("linux.plan", "windows.plan", "windows.gone"),
    ("linux.trace", "windows.trace"),
    ("render",),
    ("commands.arguments", "commands.eventlog"),
    ("commands.parser", "commands.session"),
    ("commands.registry",),
    ("commands.run", *(f"commands.{name}" for name in registry.names())),
    ("unpack",),
    ("open",),
    ("api", "cli", "setup"),
)
RANKS = {name: rank for rank, names in enumerate(ORDER) for name in names}
# What says how an answer looks sees values, never how they are found.
VALUES = {
    "model",
    "trace.events",
    "linux.model",
    "linux.plan_model",
    "linux.rebuild_model",
    "linux.trace.events",
    "windows.model",
    "windows.trace.events",
}
#: What any room may use.
TOOLS = {"charset", "counts", "guards"}
#: What puts dlwhy into debuggers asks nothing of a target: of the rooms above its own it may use these.
SETUP_USES = {"errors", "host", "imports", "commands.registry", *TOOLS}
FAMILIES = ("linux", "windows")
# Of what system the programs are that an adapter can have: its families are loaded when a target is of one.
OWN_FAMILY = {"gdb_ext": "linux", "lldb_ext": "linux", "windbg_ext": "windows"}
FOLDERS = {"common", "tests", *ADAPTERS}
# Run as files, not as modules of a package: these register the package dlwhy and import from it by that name.
ENTRY_SCRIPTS = {
    "__main__.py",
    "install.py",
    "gdb_ext/dlwhy_gdb.py",
    "lldb_ext/dlwhy_lldb.py",
    "windbg_ext/dlwhy_windbg.py",
}
STANDARD_LIBRARY = {
    *sys.builtin_module_names,
    *getattr(sys, "stdlib_module_names", ()),  # since 3.10
    *(entry.name.partition(".")[0] for entry in Path(os.__file__).parent.iterdir()),
}


def imported(path: PurePosixPath, tree: ast.Module) -> Iterator[tuple[ast.stmt, str, bool]]:
    """Give statement, dotted name and whether it is ours for each import of a file; ours without `dlwhy.`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name, False
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node, node.module or "", False
        elif isinstance(node, ast.ImportFrom):
            package = path.parts[: len(path.parts) - node.level]
            for alias in node.names:
                parts = [*package, *(node.module or "").split("."), alias.name]
                yield node, ".".join(part for part in parts if part), True


def room(name: str) -> str:
    """Give the room, or the adapter, that a dotted name of ours belongs to."""
    parts = name.split(".")
    if parts[0] != "common":
        return parts[0]
    fitting = [".".join(parts[1:end]) for end in range(len(parts), 1, -1) if ".".join(parts[1:end]) in RANKS]
    return fitting[0] if fitting else ".".join(parts[1:2])


def family(room_name: str) -> str | None:
    """Give the system that a room is about, None if it is about none."""
    parts = room_name.split(".")
    if parts[0] == "commands" and parts[-1] in registry.names():
        command = registry.find_command(parts[-1])
        return command.os if command else None
    return parts[0] if parts[0] in FAMILIES else OWN_FAMILY.get(parts[0])


def find_violations(path: PurePosixPath, source: str) -> list[str]:
    """List what is wrong with the imports of one file of the package."""
    dotted = ".".join(path.with_suffix("").parts)
    here = room(dotted)
    is_package = path.stem == "__init__"
    wrong = []
    if path.parts[0] == "common" and here not in RANKS and not is_package:
        wrong.append(f"{path}: {here} has no place in ORDER")
    tree = ast.parse(source)
    at_top = {id(node) for node in tree.body}
    for node, name, ours in imported(path, tree):
        if not ours and name.split(".")[0] == "dlwhy" and str(path) in ENTRY_SCRIPTS:
            name, ours = name.partition(".")[2], True
        problem = judge(dotted, here, name, id(node) in at_top) if ours else judge_foreign(here, name)
        if problem:
            wrong.append(f"{path}:{node.lineno}: {problem}")
    return wrong


def judge(dotted: str, here: str, name: str, at_top: bool) -> str | None:
    """Say what is wrong with an import of something of ours, None if nothing is."""
    there = room(name)
    if there in ADAPTERS and there != here:
        return f"imports from the adapter {there}"
    if there in (here, "__version__"):
        return None
    families = {family(here), family(there)} - {None}
    # An adapter can come upon a target of another family, and loads that then.
    if len(families) > 1 and (at_top or here not in ADAPTERS or here == "windbg_ext"):
        return f"{here} imports {there}, which is about another system"
    if there == "setup":
        return f"{here} imports {there}, which is for install.py alone" if dotted != "install" else None
    if here not in RANKS:
        return "install.py imports more than setup and the tests" if dotted == "install" and there != "tests" else None
    if there not in RANKS:
        return f"imports {name}, which has no place in ORDER"
    if RANKS[there] >= RANKS[here]:
        return f"{here} imports {there}, which does not stand above it in ORDER"
    if here == "setup" and there not in SETUP_USES:
        return f"{here} imports {there}, which answers questions about targets"
    is_about_looks = here == "render" or dotted.rpartition(".")[2] in ("text", "document")
    if is_about_looks and there not in {"render", *VALUES, *TOOLS}:
        return f"{dotted} imports {there}, which is no value"
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
    paths = [*module_files(), PurePosixPath("install.py")]
    wrong = [problem for path in paths for problem in find_violations(path, (ROOT / path).read_text())]
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("common/errors.py", "from .model import Problem", "errors imports model"),
        ("common/errors.py", "from .guards import x", "errors imports guards"),
        ("common/memory.py", "from .linux import state", "memory imports linux"),
        ("common/linux/loader/maps.py", "from ..state.verdict import x", "linux.loader imports linux.state"),
        ("common/linux/loader/maps.py", "def f():\n    from ...commands import x", "imports common.commands.x"),
        ("common/linux/plan.py", "from ..windows.plan import x", "about another system"),
        ("common/windows/layouts/ntuser.py", "from ...linux.layouts import tables", "about another system"),
        ("common/render/library_words.py", "from ..linux.state.matching import x", "no value"),
        ("common/commands/dlstate/text.py", "from ...linux.state.matching import x", "no value"),
        (
            "common/commands/dlstate/command.py",
            "from ..dlplan.text import x",
            "commands.dlstate imports commands.dlplan",
        ),
        ("common/commands/dlstate/command.py", "from ...windows.state import x", "about another system"),
        ("common/commands/registry.py", "from .dlstate import COMMAND", "commands.registry imports commands.dlstate"),
        ("windbg_ext/target.py", "def f():\n    from ..common.linux.elf import image", "about another system"),
        ("lldb_ext/target.py", "from ..common.windows.dumps import minidump", "about another system"),
        ("common/linux/elf/image.py", "from ...gdb_ext import target", "imports from the adapter gdb_ext"),
        ("common/linux/elf/image.py", "import gdb", "debugger's module gdb"),
        ("common/linux/elf/image.py", "from common import errors", "imports common by an absolute name"),
        ("common/linux/elf/image.py", "import dlwhy.common.errors", "by an absolute name"),
        ("common/newcomer.py", "", "newcomer has no place"),
        ("common/setup/gdb.py", "from ..linux.state import x", "setup imports linux.state, which answers questions"),
        ("common/setup/gdb.py", "from ..cli import main", "setup imports cli, which does not stand above it"),
        ("common/setup/gdb.py", "from ...gdb_ext import commands", "imports from the adapter gdb_ext"),
        ("common/setup/cli.py", "from dlwhy.tests.run import run_tests", "by an absolute name"),
        ("common/setup/cli.py", "from ...tests.run import run_tests", "tests.run.run_tests, which has no place"),
        ("common/cli.py", "from .setup import doctor", "cli imports setup, which is for install.py alone"),
        ("gdb_ext/commands.py", "from ..common.setup import pip", "gdb_ext imports setup, which is for install.py"),
        ("install.py", "from dlwhy.common.linux import plan", "install.py imports more than setup"),
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
        ("common/linux/loader/maps.py", "from ...memory import Memory\nfrom .musl import x\nimport struct"),
        ("common/commands/dlstate/command.py", "from ...linux.state.examine import x\nfrom ...render import text"),
        ("common/commands/dlstate/text.py", "from ...linux.model import x\nfrom ...render.words import y"),
        ("lldb_ext/target.py", "def f():\n    from ..common.windows.dumps import minidump"),
        ("gdb_ext/target.py", "import gdb\nfrom ..common.target import Target\nfrom . import commands"),
        ("gdb_ext/dlwhy_gdb.py", "import gdb\nfrom dlwhy.gdb_ext.commands import register"),
        ("common/setup/windbg.py", "from ..commands.registry import commands_of\nfrom .gdb import find_gdb"),
        ("install.py", "from dlwhy.common.setup import cli\nfrom dlwhy.tests.run import run_tests"),
    ],
)
def test_a_right_import_passes(path: str, source: str) -> None:
    assert find_violations(PurePosixPath(path), source) == []


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    # LLDB puts the folder of an imported script on sys.path: a json.py there would shadow the real one.
    found = [path for path in module_files() if path.parts[0] in ADAPTERS or len(path.parts) == 1]
    own = {part for path in found for part in path.with_suffix("").parts if not part.startswith("__")}
    assert own & STANDARD_LIBRARY == set()


def test_the_entry_scripts_parse_on_python_3_6() -> None:
    for name in ENTRY_SCRIPTS - {"__main__.py"}:
        source = (ROOT / name).read_text()
        ast.parse(source, name, feature_version=(3, 6))
        assert "from __future__ import annotations" not in source, f"{name}: 3.6 does not know it"
