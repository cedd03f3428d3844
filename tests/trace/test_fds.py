"""Does `dltrace --fds` find the descriptors that a library leaves open, and the calls that opened them?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dlwhy.tests.hosts.debuggers import GDB, HOSTS, SHELL
from dlwhy.tests.trace.attached import Traced, document_in
from dlwhy.tests.trace.debugging import debug

HERE = Path(__file__).resolve().parent
DEBUGGERS = [host for host in HOSTS if host != SHELL]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fds")
    source = str(HERE / "fds.c")
    for name in ("leaky", "clean"):
        macro = f'-D{name.upper()}="{folder / f"{name}.lock"}"'
        words = ["-g", "-O1", "-fno-optimize-sibling-calls", "-shared", "-fPIC", macro]
        subprocess.run(["gcc", *words, "-o", str(folder / f"lib{name}.so"), source], check=True)
    subprocess.run(["gcc", "-g", "-O1", "-o", str(folder / "fds"), source, "-ldl"], check=True)
    return folder / "fds"


def run(host: str, folder: Path, program: Path, options: str) -> Traced:
    """Let the program cycle through both libraries."""
    go = "continue" if host == GDB else "process continue"
    arguments = f"{program.parent / 'libleaky.so'} {program.parent / 'libclean.so'}"
    commands = [f"dltrace start {options} --log $LOG", go, "dltrace report", "dltrace report --json"]
    result = debug(host, folder, program, commands, arguments)
    result.report = document_in(result.output)
    return result


@pytest.mark.parametrize("host", DEBUGGERS)
def test_names_the_library_and_what_is_open(host: str, program: Path, tmp_path: Path) -> None:
    result = run(host, tmp_path, program, "--fds")
    leaks = result.events("descriptor-leak")
    assert [each["library"]["name"] for each in leaks] == ["libleaky.so"] * 3
    assert {each["descriptor_target"] for each in leaks} == {str(program.parent / "leaky.lock")}
    assert [each["opened_at"] for each in leaks] == [None, None, None]
    assert len({each["descriptor"] for each in leaks}) == 3
    assert "libleaky.so" in result.output.partition("left open")[2]


@pytest.mark.parametrize("host", DEBUGGERS)
def test_names_the_call_of_a_suspect(host: str, program: Path, tmp_path: Path) -> None:
    result = run(host, tmp_path, program, "--fds libleaky.so")
    leaks = result.events("descriptor-leak")
    assert len(leaks) == 3
    for each in leaks:
        (site,) = each["opened_at"]
        assert (site["library"], site["function"]) == ("libleaky.so", "lock_file")
        assert site["line"].startswith("fds.c:")
