"""Is the answer the same in every locale where names are not ASCII, or not even UTF-8, and does a trace go on?"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dlwhy.tests.hosts.chroots import SUITES, get
from dlwhy.tests.hosts.comparing import first_difference, text_of
from dlwhy.tests.hosts.debuggers import GDB, HOSTS, SHELL
from dlwhy.tests.hosts.gdbrun import ROOT, clean_environment
from dlwhy.tests.hosts.scenario import Json
from dlwhy.tests.hosts.typed import ask
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.support.children import running
from dlwhy.tests.trace.attached import comparable, document_in

HERE = Path(__file__).resolve().parent
DEBUGGERS = [host for host in HOSTS if host != SHELL]
LATIN_1 = "de_DE.ISO-8859-1"
CHARMAP = Path("/usr/share/i18n/charmaps/ISO-8859-1.gz")
#: The last one is made here where there is what it is made of.
LOCALES = ["C", "C.UTF-8", *([LATIN_1] if shutil.which("localedef") and CHARMAP.exists() else [])]
LIBRARY = "void destroy(void *unused) { (void)unused; } int variable;"
FOLDER, ODD, UMLAUT = "müller", os.fsdecode(b"lib\xffodd.so"), "libä.so"


@dataclass(frozen=True)
class Program:
    """The program, its arguments, and where the locale that was made here lies."""

    path: Path
    arguments: tuple[str, ...]
    locales: Path

    def variables(self, locale: str) -> dict[str, str]:
        """Return what sets a locale."""
        return {"LC_ALL": locale, "LOCPATH": str(self.locales)} if locale == LATIN_1 else {"LC_ALL": locale}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Build the program, in a folder and from a file whose names are not ASCII."""
    top = tmp_path_factory.mktemp("locales")
    folder = top / FOLDER
    folder.mkdir()
    (folder / "library.c").write_text(LIBRARY)
    shutil.copy(HERE / "locales.c", folder / "prög.c")
    for name in (ODD, UMLAUT):
        words = ["gcc", "-shared", "-fPIC", "-o", str(folder / name), str(folder / "library.c")]
        subprocess.run(words, check=True)
    subprocess.run(["gcc", "-g", "-o", str(folder / "prog"), str(folder / "prög.c"), "-ldl", "-lpthread"], check=True)
    if LATIN_1 in LOCALES:
        subprocess.run(["localedef", "-f", "ISO-8859-1", "-i", "de_DE", str(top / LATIN_1)], check=True)
    return Program(folder / "prog", (str(folder / UMLAUT), str(folder / ODD)), top)


@pytest.fixture(scope="module")
def process(program: Program) -> Iterator[int]:
    """Let the program run until it waits."""
    with running([program.path, *program.arguments], {"WAIT": "1"}) as child:
        yield child.pid


@pytest.fixture(scope="module")
def core(process: int, program: Program) -> Path:
    """Let gdb write a core of it, with a name of its own."""
    path = program.path.with_name("kärn.core")
    done = ask(GDB, [f"attach {process}", f"generate-core-file {path}"], program.locales)
    assert path.exists(), done
    return path


def ask_shell(about: list[str], words: list[str], **variables: str) -> str:
    """Ask the shell's command; return what it writes, as it is."""
    done = subprocess.run(
        [sys_python(), "-S", str(ROOT), *about, *words],
        capture_output=True,
        check=False,
        env=clean_environment(variables),
    )
    return os.fsdecode(done.stdout + done.stderr)


@cache
def sys_python() -> str:
    return shutil.which("python3", path="/usr/bin") or "python3"


def strict(text: str) -> Json:
    """Read the first document in a debugger's output as a strict parser does."""
    start = text.index('{\n  "schema"')
    document: Json
    document, end = json.JSONDecoder().raw_decode(text[start:])
    assert text[start : start + end].isascii()
    VALIDATOR.validate(document)
    json.dumps(document, ensure_ascii=False).encode("utf-8", "strict")
    return document


def attached(host: str, pid: int) -> list[str]:
    return [f"attach {pid}"] if host == GDB else [f"process attach -p {pid}"]


def let_go(host: str) -> list[str]:
    return ["detach"] if host == GDB else ["process detach"]


def check_names(document: Json) -> None:
    libraries = {each["name"]: each for each in document["libraries"]}
    assert libraries["lib\\xffodd.so"]["path"].endswith(f"/{FOLDER}/lib\\xffodd.so")
    assert libraries[UMLAUT]["held"] is True
    assert libraries["prog"]["path"].endswith(f"/{FOLDER}/prog")


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("host", HOSTS)
def test_a_process(host: str, locale: str, process: int, program: Program) -> None:
    reference = strict(ask_shell(["--pid", str(process)], ["dlstate", "--json"]))
    check_names(reference)
    (hold,) = [h for each in reference["libraries"] for h in each["holds"] if h["kind"] == "tls-destructors"]
    assert hold["destructors"][0]["thread"]["name"] == "0123456789abcd\\xc3"
    variables = program.variables(locale)
    if host == SHELL:
        output = ask_shell(["--pid", str(process)], ["dlstate", "--json"], **variables)
    else:
        output = ask(host, [*attached(host, process), "dlstate --json", *let_go(host)], program.locales, variables)
    assert "UnicodeDecodeError" not in output
    expected, got = text_of(reference), text_of(strict(output))
    assert got == expected, first_difference(got, expected)


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("host", HOSTS)
def test_a_core(host: str, locale: str, core: Path, program: Program) -> None:
    reference = strict(ask_shell(["--core", str(core)], ["dlplan", "--all", "--json"]))
    variables = program.variables(locale)
    if host == SHELL:
        output = ask_shell(["--core", str(core)], ["dlplan", "--all", "--json"], **variables)
    else:
        load = [f"core-file {core}"] if host == GDB else [f'target create --core "{core}"']
        output = ask(host, [*load, "dlplan --all --json"], program.locales, variables)
    document = strict(output)
    assert document["target"]["description"].endswith("/kärn.core")
    expected, got = text_of(reference, thread_names=False), text_of(document, thread_names=False)
    assert got == expected, first_difference(got, expected)


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("host", DEBUGGERS)
def test_text_is_what_the_terminal_can_show(host: str, locale: str, process: int, program: Program) -> None:
    commands = [*attached(host, process), "dlstate lib*odd.so -v", "dlstate", *let_go(host)]
    output = ask(host, commands, program.locales, program.variables(locale))
    assert "lib\\xffodd.so stays loaded: 1 pending TLS destructor." in output
    if locale == "C.UTF-8":
        assert f'(LWP {process + 1}, "0123456789abcd\\xc3")' in output or "0123456789abcd\\xc3" in output
        assert f"\n{UMLAUT} " in output
        assert f"/{FOLDER}/lib\\xffodd.so" in output
    else:
        assert "\nlib\\u00e4.so " in output
        assert "/m\\u00fcller/lib\\xffodd.so" in output


@pytest.mark.parametrize("locale", LOCALES)
def test_text_in_the_shell(locale: str, process: int, program: Program) -> None:
    about, variables = ["--pid", str(process)], program.variables(locale)
    output = ask_shell(about, ["dlstate"], **variables)
    assert "\nlib\\xffodd.so " in output
    assert f"\n{UMLAUT} " in (output if locale != LATIN_1 else os.fsencode(output).decode("latin-1"))
    output = ask_shell(about, ["dlstate", ODD], **variables, PYTHONIOENCODING="ascii")
    assert output.isascii()
    assert output.startswith("lib\\xffodd.so stays loaded: 1 pending TLS destructor.\n")
    assert "/m\\u00fcller/lib\\xffodd.so\n" in output


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("word", [ODD, "lib\\xffodd.so", "lib?odd.so", f"{FOLDER}/{ODD}"])
def test_a_library_is_found_by_its_bytes_or_as_it_is_shown(
    word: str, locale: str, process: int, program: Program
) -> None:
    output = ask_shell(["--pid", str(process)], ["dlstate", word], **program.variables(locale))
    assert output.startswith("lib\\xffodd.so stays loaded: 1 pending TLS destructor.\n")


@pytest.mark.parametrize("host", DEBUGGERS)
@pytest.mark.parametrize("locale", LOCALES)
def test_as_it_is_shown_in_a_debugger(host: str, locale: str, process: int, program: Program) -> None:
    # gdb takes one backslash for itself, up to gdb 13 within quotes too.
    word = "lib\\\\xffodd.so" if host == GDB else "'lib\\xffodd.so'"
    commands = [*attached(host, process), f"dlstate {word}", *let_go(host)]
    output = ask(host, commands, program.locales, program.variables(locale))
    assert "lib\\xffodd.so stays loaded: 1 pending TLS destructor." in output
    if locale != "C" or host != GDB:  # gdb takes no word that is not of its host charset
        output = ask(host, [commands[0], f"dlstate {UMLAUT}", commands[2]], program.locales, program.variables(locale))
        assert re.search(r"lib(ä|\\u00e4)\.so stays loaded", output), output


def test_a_wrong_name_is_told_as_it_was_typed(process: int, program: Program) -> None:
    for locale in LOCALES:
        output = ask_shell(["--pid", str(process)], ["dlstate", os.fsdecode(b"no\xfe.so")], **program.variables(locale))
        assert output.startswith("dlstate: no loaded library matches 'no\\xfe.so'")


@pytest.mark.parametrize("locale", LOCALES)
def test_mi(locale: str, process: int, program: Program) -> None:
    commands = [f"attach {process}", 'interpreter-exec mi "-dlstate lib?odd.so"', "set host-charset", "detach"]
    output = ask(GDB, commands, program.locales, program.variables(locale))
    (answer,) = [line for line in output.splitlines() if line.startswith(("^done,schema", "^error"))]
    assert 'name="lib\\\\xffodd.so"' in answer
    folder = FOLDER if locale == "C.UTF-8" else "m\\\\u00fcller"
    assert f'/{folder}/lib\\\\xffodd.so"' in answer
    assert 'name="0123456789abcd\\\\xc3"' in answer


@pytest.mark.parametrize("locale", LOCALES)
def test_gdb_is_left_as_it_was(locale: str, process: int, program: Program) -> None:
    show = ["show host-charset", "show target-charset", "complete dlstate lib"]
    commands = [f"attach {process}", *show, "dlstate", "dlplan --all", "echo AFTER\\n", *show, "detach"]
    output = ask(GDB, commands, program.locales, program.variables(locale))
    assert "Python Exception" not in output
    before = [line for line in output.partition("AFTER\n")[0].splitlines() if line.startswith(("The ", "dlstate lib"))]
    after = [line for line in output.partition("AFTER\n")[2].splitlines() if line.startswith(("The ", "dlstate lib"))]
    assert before == after
    assert ("dlstate libä.so" in after) is (locale == "C.UTF-8")


def trace(host: str, program: Program, folder: Path, locale: str) -> tuple[list[Any], Json, str]:
    """Trace the program; return the log's lines, the report, and all that the debugger wrote."""
    folder.mkdir()
    log = folder / ("lög.jsonl" if locale == "C.UTF-8" or host != GDB else "log.jsonl")
    arguments = " ".join(program.arguments)
    begin = [f"file {program.path}", f"set args {arguments}", "break main"]
    stop, go = "break stop_here", "continue"
    if host != GDB:
        begin = [f'target create "{program.path}"', f"settings set -- target.run-args {arguments}"]
        stop, go = "breakpoint set -n stop_here", "process continue"
        begin.append("breakpoint set -n main")
    asked = ["dltrace report", "dltrace report --json"]
    commands = [*begin, "run", f"dltrace start --tls --log {log}", stop, go, *asked, go]
    output = ask(host, commands, folder, program.variables(locale))
    events = [json.loads(line) for line in log.read_text(encoding="ascii").splitlines()]
    report = document_in(output)
    VALIDATOR.validate(report)
    return events, {**report, "target": None}, output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_a_trace(host: str, program: Program, tmp_path: Path) -> None:
    events, report, _ = trace(host, program, tmp_path / "first", "C.UTF-8")
    kinds = [each["event"] for each in events if each["event"] != "pin"]
    assert kinds == ["open", "close", "open", "tls-registration", "open", "close"]
    assert events[-1]["library"]["name"] == "lib\\xffodd.so"
    assert events[0]["caller"]["line"].startswith("prög.c:")
    assert report["problems"] == []
    for locale in LOCALES:
        others, other, output = trace(host, program, tmp_path / locale, locale)
        assert comparable(others) == comparable(events)
        assert comparable(other) == comparable(report)
        assert [each["caller"] and each["caller"]["line"] for each in others] == [
            each["caller"] and each["caller"]["line"] for each in events
        ]
        assert "Unicode" not in output, output
        assert "schema" in output, output
        assert "exited" in output


@pytest.mark.matrix
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("name", SUITES)
def test_other_gdbs(name: str, locale: str, process: int, core: Path, program: Program) -> None:
    debugger = get(name, program.locales / f"gdb-{name}")
    for about, load in ((["--pid", str(process)], f"attach {process}"), (["--core", str(core)], f"core-file {core}")):
        commands = [load, "dlstate --json", "dlstate", "complete dlstate lib", 'interpreter-exec mi "-dlstate"']
        words = ["gdb", "-nx", "-batch", "-iex", "set auto-load safe-path /", "-x", str(ROOT / "gdb_ext/dlwhy_gdb.py")]
        words += [word for command in commands for word in ("-ex", command)]
        environment = debugger.environment(LC_ALL=locale)
        done = subprocess.run(words, capture_output=True, check=False, env=environment, cwd=program.locales)
        output = os.fsdecode(done.stdout + done.stderr)
        assert "Unicode" not in output, output
        assert "schema" in output, output
        reference = strict(ask_shell(about, ["dlstate", "--json"]))
        expected, got = text_of(reference, thread_names=False), text_of(strict(output), thread_names=False)
        assert got == expected, first_difference(got, expected)
        assert "\nlib\\xffodd.so " in output
        assert ("^done,schema" in output) is (debugger.version >= (12, 0))
