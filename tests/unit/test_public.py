"""Is what scripts may use whole: a method for each command, each value, each error, each example of the docs?"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import dlwhy
import pytest
from dlwhy.common.cli import main
from dlwhy.common.commands.registry import Command, commands_of
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.tests.support import documented
from dlwhy.tests.synth import ntmachines
from dlwhy.tests.synth.ntlayout import windows
from dlwhy.tests.synth.windows import process, write

ROOT = Path(dlwhy.__file__).parent
EXPORTED = {name: getattr(dlwhy, name) for name in dlwhy.__all__}
CLASSES = {name: found for name, found in EXPORTED.items() if isinstance(found, type)}
SCOPE = {**vars(typing), **EXPORTED, "os": os}


def answer_of(method: Any) -> type:
    """Return the type of what a method answers, of a trace that of its report."""
    found: Any = typing.get_type_hints(method, SCOPE)["return"]
    if typing.get_origin(found) is dlwhy.Tracing:
        (found,) = typing.get_args(found)
    return found if isinstance(found, type) else object


def lacking(commands: Mapping[str, Command]) -> list[str]:
    """List the commands that no script can ask, or whose answer is not exported."""
    wrong = []
    for name, command in commands.items():
        method = vars(dlwhy.Examination).get(command.method) if command.method else None
        if method is None or answer_of(method) not in CLASSES.values() or not hasattr(answer_of(method), "problems"):
            wrong.append(name)
    return wrong


def test_each_command_has_a_method() -> None:
    commands = commands_of()
    assert lacking(commands) == []
    assert len({command.method for command in commands.values()}) == len(commands)
    assert len({answer_of(vars(dlwhy.Examination)[command.method]) for command in commands.values()}) == len(commands)


@pytest.mark.parametrize("method", ["", "nothing", "close", "libraries"])
def test_a_command_without_one_is_found(method: str) -> None:
    command = Command("dlcount", "linux", "count", "Counts.", (), "command:answer", method)
    assert lacking({**commands_of(), "dlcount": command}) == ["dlcount"]


def test_the_first_line_of_an_answer_names_its_command() -> None:
    for name, command in commands_of().items():
        documentation = inspect.getdoc(answer_of(vars(dlwhy.Examination)[command.method])) or ""
        assert f"``{name}" in documentation, name


# -- what is exported --------------------------------------------------------------------------------------------------


def types_in(hint: Any) -> Iterator[type]:
    """Give the types that are named in an annotation."""
    for each in typing.get_args(hint):
        yield from types_in(each)
    if isinstance(hint, type):
        yield hint


def reachable(types: Iterable[type]) -> set[type]:
    """Collect the types of ours that can be reached from values of some types."""
    found: set[type] = set()
    left = list(types)
    while left:
        each = left.pop()
        if each.__module__.startswith("dlwhy.") and each not in found:
            found.add(each)
            if issubclass(each, tuple):
                left += [
                    kind
                    for hint in typing.get_type_hints(each, {**vars(sys.modules[each.__module__]), **EXPORTED}).values()
                    for kind in types_in(hint)
                ]
    return found


def test_every_value_of_an_answer_is_exported() -> None:
    answers = [answer_of(vars(dlwhy.Examination)[command.method]) for command in commands_of().values()]
    assert {each.__name__ for each in reachable(answers)} - set(dlwhy.__all__) == set()
    values = {name for name, found in CLASSES.items() if not issubclass(found, BaseException)}
    assert values - {each.__name__ for each in reachable(answers)} == {"Examination", "Tracing"}, "exported for nothing"


#: Members that once were not called as their keys of the JSON.  `total` still is not: ``count`` is a method of tuples.
CALLED_AS_KEYS = (
    "Close.predicted_exactly",
    "DllClose.predicted_exactly",
    "DllPlan.gets_process_detach",
    "DllPlan.library",
    "DllStep.library",
    "GoneDlls.unloaded",
    "ImportCycleAlternative.library",
    "KeptDll.last_event",
    "KeptLibrary.last_event",
    "MappedFile.file_name_address",
)


@pytest.mark.parametrize("member", CALLED_AS_KEYS)
def test_a_member_is_called_as_its_key(member: str) -> None:
    value, _, name = member.partition(".")
    assert name in vars(EXPORTED[value])


def test_a_type_checker_sees_what_is_exported() -> None:
    block, others = (node for node in ast.parse((ROOT / "__init__.py").read_text()).body if isinstance(node, ast.If))
    assert [node.name for node in others.body if isinstance(node, ast.FunctionDef)] == ["__getattr__"]
    imported = {
        f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    homes = {f"{module}.{name}" for module, names in dlwhy._HOMES.items() for name in names.split()}
    assert imported - {"common.host.Host"} == homes
    assert sorted(["__version__", "open", *(name.rpartition(".")[2] for name in homes)]) == sorted(dlwhy.__all__)
    assert set(dlwhy.__all__) <= set(dir(dlwhy))


def test_importing_it_imports_nothing() -> None:
    script = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('dlwhy', {str(ROOT / '__init__.py')!r},\n"
        f"    submodule_search_locations=[{str(ROOT)!r}])\n"
        "sys.modules['dlwhy'] = importlib.util.module_from_spec(spec)\n"
        "before = set(sys.modules)\n"
        "spec.loader.exec_module(sys.modules['dlwhy'])\n"
        "print(sorted(set(sys.modules) - before))\n"
        "import dlwhy; dlwhy.DlwhyError\n"
        "print(sorted(name for name in sys.modules if name.startswith('dlwhy.')))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['__future__']",
        "['dlwhy.common', 'dlwhy.common.counts', 'dlwhy.common.errors', 'dlwhy.common.imports']",
    ]


def test_what_is_not_exported() -> None:
    with pytest.raises(AttributeError, match="module 'dlwhy' has no attribute 'open_core'"):
        dlwhy.open_core  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(dlwhy, "__wrapped__")


def members() -> Iterator[tuple[str, Any]]:
    """Give the public functions and methods."""
    yield "open", dlwhy.open
    for name in ("Examination", "Tracing"):
        for member, found in vars(CLASSES[name]).items():
            if not member.startswith("_"):
                yield f"{name}.{member}", found.fget if isinstance(found, property) else found


def test_all_that_is_public_is_documented() -> None:
    page = documented.text().partition("\n## Python\n")[2]
    named = set(re.findall(r"`(\w+)`", page.partition("### What is public")[2]))
    assert set(dlwhy.__all__) - named == set()
    assert all(inspect.getdoc(found) for found in CLASSES.values())
    for name, function in members():
        documentation = inspect.getdoc(function) or ""
        assert re.match(r"(Return|End|Close) [^\n]+\.(\n|$)", documentation), name
        for parameter in list(inspect.signature(function).parameters)[name != "open" :]:
            assert f":param {parameter}: " in documentation, f"{name} {parameter}"
    signatures = dict(re.findall(r"`(\w+)(\([^`]*\))`", page))
    for command in commands_of().values():
        assert signatures[command.method] == signature(command.method), command.name


def signature(name: str) -> str:
    """Write the parameters of a method as the page has them."""
    found = inspect.signature(vars(dlwhy.Examination)[name])
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in list(found.parameters.values())[1:]]
    return str(inspect.Signature(bare))


# -- the examples ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(rich_core: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the files that the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copy(rich_core, folder / "core.4711")
    write(folder, process().dump(), "prog.dmp")
    ntmachines.build(windows("10.0.19041.3570")).save(folder / "MEMORY.DMP", "complete")
    return folder


OF_FILES = [(script, printed) for script, printed in documented.examples() if 'dlwhy.open("' in script]


@pytest.mark.parametrize(("script", "printed"), OF_FILES)
def test_an_example_of_the_docs(
    files: Path, script: str, printed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    exec(script, {})
    assert capsys.readouterr().out == printed


def test_each_method_has_an_example() -> None:
    scripts = "\n".join(script for script, _ in documented.examples())
    assert {command.method for command in commands_of().values()} <= set(re.findall(r"\.(\w+)\(", scripts))


# -- what is opened ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [1.5, True, b"core", [], object()])
def test_a_target_of_a_wrong_type(target: Any) -> None:
    with pytest.raises(TypeError, match=rf"takes a process id \(int\), .* not {type(target).__name__}$"):
        dlwhy.open(target)


def test_an_option_of_a_wrong_type(files: Path) -> None:
    with pytest.raises(TypeError, match="takes a path as sysroot; not int"):
        dlwhy.open(files / "core.4711", sysroot=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        ("x", TypeError, r"takes a number of bytes \(int\) as max_size; not str"),
        (1.5, TypeError, "not float"),
        (True, TypeError, "not bool"),
        (0, dlwhy.UsageError, "max_size takes a number of bytes from 1 on, not 0"),
        (-1, dlwhy.UsageError, "not -1"),
    ],
)
def test_a_size_that_is_none(files: Path, size: Any, error: type[Exception], message: str) -> None:
    for name in ("core.4711", "prog.dmp"):  # neither is compressed
        with pytest.raises(error, match=message):
            dlwhy.open(files / name, max_size=size)


def test_a_str_is_a_path_and_an_int_a_process(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    with dlwhy.open("core.4711") as one, dlwhy.open(files / "core.4711") as other:
        assert one.state().libraries == other.state().libraries
    with pytest.raises(dlwhy.DumpFormatError, match="4711: No such file"):
        dlwhy.open("4711")


@pytest.mark.parametrize("content", [b"", b"MZ", b"core", b"\x7fEL", bytes(100)])
def test_a_file_that_is_neither(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(dlwhy.DumpFormatError, match=r"neither a core .* nor a minidump nor"):
        dlwhy.open(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"\x7fELF", dlwhy.DumpFormatError, "no ELF file"),
        (b"\x7fELF\2\1" + bytes(10) + b"\3" + bytes(60), dlwhy.DumpFormatError, "an ELF file, but no core"),
        (b"MDMP", dlwhy.DumpFormatError, "no minidump"),
        (b"USERDU64" + bytes(90), dlwhy.UnsupportedError, "only WinDbg reads it"),
    ],
)
def test_a_file_that_is_nearly_one(tmp_path: Path, content: bytes, error: type[dlwhy.DlwhyError], message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(error, match=message):
        dlwhy.open(tmp_path / "x")


@pytest.mark.parametrize("options", [{"sysroot": "/"}, {"executable": sys.executable}, {"max_size": 5}])
def test_options_that_do_not_fit(files: Path, options: Mapping[str, Any]) -> None:
    with pytest.raises(dlwhy.UsageError, match="for files, not for a process"):
        dlwhy.open(os.getpid(), **options)
    with pytest.raises(dlwhy.UsageError, match="are for files: name one"):
        dlwhy.open(**options)
    if "max_size" not in options:
        with pytest.raises(dlwhy.UsageError, match="is a dump of Windows: sysroot and executable are for cores"):
            dlwhy.open(files / "prog.dmp", **options)


def test_where_no_debugger_is() -> None:
    with pytest.raises(dlwhy.NoTargetError, match="no debugger runs this script"):
        dlwhy.open()


# -- what is asked -----------------------------------------------------------------------------------------------------

ELF = "prog.dmp is of Windows, whose commands begin with dll"
WINDOWS = "it is not a process of Windows"
MACHINE = "what maps a file is known to the kernel alone"
RUN = "a trace needs a debugger that runs the process"


@pytest.mark.parametrize(
    ("name", "method", "parameter", "message"),
    [
        ("prog.dmp", "state", None, ELF),
        ("prog.dmp", "plan", "libA.dll", ELF),
        ("prog.dmp", "shares", None, MACHINE),
        ("prog.dmp", "trace", "libA.dll", RUN),
        ("prog.dmp", "dll_trace", "libA.dll", "needs WinDbg"),
        ("core.4711", "dlls", None, WINDOWS),
        ("core.4711", "dll_plan", "libplain.so", WINDOWS),
        ("core.4711", "dll_plan", None, WINDOWS),
        ("core.4711", "gone", None, WINDOWS),
        ("core.4711", "shares", None, MACHINE),
        ("core.4711", "trace", "libplain.so", RUN),
        ("core.4711", "dll_trace", "libplain.so", "needs WinDbg"),
        ("MEMORY.DMP", "state", None, "is of Windows, whose commands begin with dll"),
    ],
)
def test_a_question_that_does_not_fit(
    files: Path, name: str, method: str, parameter: Optional[str], message: str
) -> None:
    with dlwhy.open(files / name) as examined, pytest.raises(dlwhy.UnsupportedError, match=message):
        getattr(examined, method)(*([] if parameter is None else [parameter]))


def test_an_error_that_names_an_option_of_the_shell_names_the_parameter_too() -> None:
    """What a script can meet says what a script can do: not what only those have who type a command."""
    parameters = {"--exe": "executable", "--sysroot": "sysroot", "--max-size": "max_size", "--process": "pid"}
    root = Path(dlwhy.__file__).parent / "common"
    shell_only = {root / "cli.py", *(root / "setup").iterdir(), *(root / "commands").rglob("*.py")}
    lacking = []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path not in shell_only else ():
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            lacking += [
                f"{path}: {option} in {text}"
                for option, parameter in parameters.items()
                if option in text and not re.search(rf"in Python (?:by )?{parameter}\b", text)
            ]
    assert lacking == []


def test_an_address_stands_for_a_library(files: Path) -> None:
    with dlwhy.open(files / "core.4711") as core:
        library = core.library("libplain.so")
        assert library.start is not None
        assert core.library(library.start) == library
        assert core.state(library.start).asked == hex(library.start)
        assert core.plan(library.link_map).plans[0].library.name == library.name
        with pytest.raises(dlwhy.NotFoundError, match="no loaded library matches '0x1'"):
            core.state(1)
        with pytest.raises(dlwhy.NotFoundError, match=r"loaded libraries match 'libfill\*': [^;]*$"):
            core.library("libfill*")
    with dlwhy.open(files / "prog.dmp") as dump:
        (dll,) = dump.dlls("libA").dlls
        assert dump.dlls(dll.base).dlls == (dll,)
        assert dump.gone("0x500A0010") == dump.gone(0x500A0010)
        with pytest.raises(dlwhy.NotFoundError, match="'@rip' is no number"):
            dump.gone("@rip")


def test_how_often(files: Path) -> None:
    with dlwhy.open(files / "core.4711") as core:
        assert [core.plan("libplain.so", closes).plans[0].close_count for closes in (None, 1, 2, "all")] == [1, 1, 2, 2]
        assert {plan.close_count for plan in core.plan(closes=1).plans} == {1}
        assert max(plan.close_count for plan in core.plan().plans) == 2
        for wrong in (0, -1, "x", ""):
            with pytest.raises(dlwhy.UsageError, match="closes takes a number from 1 on, or 'all'"):
                core.plan("libplain.so", wrong)
        with pytest.raises(dlwhy.UsageError, match="stop_when is 'kept', 'unloaded' or 'opened', not 'gone'"):
            core.trace(stop_when="gone")


# -- what is passed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "method", "words", "given"),
    [
        ("core.4711", "state", [b"x"], "bytes"),
        ("core.4711", "state", [[]], "list"),
        ("core.4711", "state", [1.5], "float"),
        ("core.4711", "state", [True], "bool"),
        ("core.4711", "libraries", [b"x"], "bytes"),
        ("core.4711", "library", [None], "NoneType"),
        ("core.4711", "plan", [b"x"], "bytes"),
        ("core.4711", "trace", [5], "int"),
        ("core.4711", "dll_trace", [None], "NoneType"),
        ("prog.dmp", "dlls", [1.5], "float"),
        ("prog.dmp", "dlls", [None, "1"], "str"),
        ("prog.dmp", "dll_plan", [b"libA"], "bytes"),
        ("prog.dmp", "dll_plan", ["libA", 1, 1.5], "float"),
        ("prog.dmp", "dll_plan", ["libA", 1.5], "float"),
        ("core.4711", "plan", ["libplain.so", True], "bool"),
        ("prog.dmp", "gone", [b"1"], "bytes"),
        ("prog.dmp", "gone", [1.5], "float"),
        ("prog.dmp", "gone", [None, True], "bool"),
        ("MEMORY.DMP", "shares", [b"x"], "bytes"),
        ("MEMORY.DMP", "shares", [None, "x"], "str"),
    ],
)
def test_a_parameter_of_a_wrong_type(files: Path, name: str, method: str, words: list[Any], given: str) -> None:
    with dlwhy.open(files / name) as examined, pytest.raises(TypeError, match=rf"^[^\n]+ is .*; not {given}$"):
        getattr(examined, method)(*words)


@pytest.mark.parametrize("number", [-1, 1 << 64])
def test_a_number_that_is_no_address(files: Path, number: int) -> None:
    with dlwhy.open(files / "core.4711") as core, pytest.raises(dlwhy.UsageError, match=f"no address: {number:#x}"):
        core.state(number)
    with dlwhy.open(files / "prog.dmp") as dump, pytest.raises(dlwhy.UsageError, match=f"no address: {number:#x}"):
        dump.gone(number)


def test_a_path_stands_for_a_name(files: Path) -> None:
    with dlwhy.open(files / "core.4711") as core:
        assert core.state(Path("libplain.so")) == core.state("libplain.so")
        assert core.plan(Path("libplain.so")) == core.plan("libplain.so")
        with pytest.raises(dlwhy.UnsupportedError, match=RUN):
            core.trace(Path("libplain.so"))
    with dlwhy.open(files / "prog.dmp") as dump:
        assert dump.dlls(Path("libA.dll")) == dump.dlls("libA.dll")
    with dlwhy.open(files / "MEMORY.DMP") as machine:
        assert machine.shares(Path("python35.dll")) == machine.shares("python35.dll")


def test_a_process_that_the_dump_is_not_of(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with dlwhy.open(files / "prog.dmp") as dump:
        own = dump.dlls().target.pid
        assert own is not None
        assert dump.dlls(pid=own) == dump.dlls()
        for ask in (dump.dlls, lambda pid: dump.dll_plan("libA", pid=pid), lambda pid: dump.gone(pid=pid)):
            with pytest.raises(
                dlwhy.NotFoundError, match=f"there is no process 1: .*prog.dmp is of process {own} alone"
            ):
                ask(pid=1)
    for words in (["dllstate"], ["dllplan", "libA"], ["dllgone"]):
        assert main(["--dump", str(files / "prog.dmp"), *words, "-p", "1"]) == 2
        output = capsys.readouterr()
        assert (output.out, output.err.count("\n")) == ("", 1)
        assert "there is no process 1" in output.err


def test_the_dlls_by_what_a_free_of_them_unloads(files: Path) -> None:
    with dlwhy.open(files / "prog.dmp") as dump:
        ranking = dump.dll_plan()
        assert [(plan.library.name, plan.close_count) for plan in ranking.plans][:2] == [("cx.dll", 1), ("libA.dll", 3)]
        assert ranking == dump.dll_plan(frees="all")
        once = dump.dll_plan(None, 1)
        assert {plan.close_count for plan in once.plans} == {1}
        assert dump.dll_plan("libA").plans[0].close_count == 1
        with pytest.raises(dlwhy.UsageError, match="frees"):
            dump.dll_plan(frees=0)


def test_a_dump_that_does_not_have_its_process_id(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MinidumpTarget, "pid", None)
    with dlwhy.open(files / "prog.dmp") as dump, pytest.raises(dlwhy.NotFoundError, match="whose id it does not have"):
        dump.dlls(pid=1)


# -- what is closed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "questions"),
    [
        ("core.4711", [("state", []), ("libraries", []), ("library", ["libplain.so"]), ("plan", [])]),
        ("prog.dmp", [("dlls", []), ("dll_plan", ["libA"]), ("dll_plan", []), ("gone", [])]),
        ("MEMORY.DMP", [("shares", []), ("shares", ["python35.dll"]), ("dlls", [])]),
    ],
)
def test_a_file_is_closed_once(files: Path, name: str, questions: list[tuple[str, list[str]]]) -> None:
    with dlwhy.open(files / name) as examined:
        examined.close()
        for method, words in questions:
            with pytest.raises(dlwhy.NoTargetError, match=rf"{name} has been closed: open it again by dlwhy\.open$"):
                getattr(examined, method)(*words)
    examined.close()


def test_the_errors_of_the_docs(files: Path) -> None:
    """What is not there is told by the error that the page names."""
    page = re.sub(r"\s+", " ", documented.text())
    assert "`open` raises `NoTargetError` for a process that is not there" in page
    assert "`DumpFormatError` for a core or dump that is not there" in page
    with pytest.raises(dlwhy.DumpFormatError):
        dlwhy.open(files / "nope")
    with pytest.raises(dlwhy.NotFoundError):
        dlwhy.open(files / "core.4711", sysroot=files / "nope")
