"""Is a core without ELF headers read by all hosts with the files on disk, and is the file named that they lack?"""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest
from dlwhy.tests.hosts.comparing import compare
from dlwhy.tests.hosts.cores import as_kernel
from dlwhy.tests.hosts.debuggers import GDB, HOSTS, SHELL, Hosts, Reply, Subject, ask_shell
from dlwhy.tests.support.children import running
from dlwhy.tests.synth.process import compile_file

PROGRAM = """
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    if (!dlopen("libm.so.6", RTLD_NOW)) return 1;
    puts("ready");
    fflush(stdout);
    pause();
    return 0;
}
"""


@pytest.fixture(scope="module", params=["-no-pie", "-pie"])
def cores(request: pytest.FixtureRequest, hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the core with headers and the one without, beside their program."""
    folder = tmp_path_factory.mktemp("headerless")
    compile_file(folder, "program", PROGRAM, request.param, language="c")
    whole, lacking = folder / "whole.core", folder / "lacking.core"
    with running([folder / "program"]) as process:
        smaps = Path(f"/proc/{process.pid}/smaps").read_text(encoding="utf-8")
        hosts.ask(GDB, Subject(pid=process.pid), (), whole)
    assert as_kernel(whole, smaps, lacking, headers=False) > 3
    return whole, lacking


def ask(hosts: Hosts, host: str, core: Path, program: Optional[Path]) -> Reply:
    if host == SHELL:
        return ask_shell(Subject(core=core), ["dlstate", "--json"], ["--exe", str(program)] if program else [])
    (reply,) = hosts.ask(host, Subject(core=core, program=program))
    return reply


def test_all_hosts(hosts: Hosts, cores: tuple[Path, Path]) -> None:
    whole, lacking = cores
    program = whole.parent / "program"
    replies = {host: ask(hosts, host, lacking, None) for host in HOSTS}
    assert compare(replies, "without headers") == []
    expected, found = ask(hosts, SHELL, whole, None).document, replies[SHELL].document
    assert found["libraries"] == expected["libraries"]
    (problem,) = found["problems"]
    assert problem["where"] == "ld-linux-x86-64.so.2, libc.so.6, libm.so.6, program"
    moved = program.rename(program.parent / "moved")
    try:
        for host in HOSTS:
            refusal = ask(hosts, host, lacking, None)
            assert f"lacks the program's headers, and {program} is not here: name the program" in str(refusal.error), (
                host
            )
        replies = {host: ask(hosts, host, lacking, moved) for host in HOSTS}
    finally:
        moved.rename(program)
    assert compare(replies, "with the program named") == []
    assert replies[SHELL].document["libraries"] == expected["libraries"]
