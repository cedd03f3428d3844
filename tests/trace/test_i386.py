"""Does dltrace see the same of a 32-bit process, whose arguments are on the stack?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dlwhy.tests.hosts.crossbuild import I386, require
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.trace.test_safety import DEBUGGERS, HERE, run


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require(I386)
    folder = tmp_path_factory.mktemp("i386")
    compiler = f"{I386.triplet}-gcc"
    (folder / "other.c").write_text("int other;\n")
    shared = ["-shared", "-fPIC", "-Wl,--no-as-needed", "-lc"]
    subprocess.run([compiler, "-g", "-o", "libother.so", "other.c", *shared], check=True, cwd=folder)
    words = [compiler, "-g", "-O1", "-o", "safety", str(HERE / "safety.c"), "-ldl", "-lpthread"]
    subprocess.run(words, check=True, cwd=folder)
    return folder / "safety"


@pytest.mark.parametrize("host", DEBUGGERS)
def test_namespaces(host: str, program: Path, tmp_path: Path) -> None:
    result = run(host, tmp_path, program, "spaces", ["start", "go", "report"])
    closes = result.events("close")
    assert [each["library"]["namespace"] for each in closes] == [0, 1, 0, 1, 0, 1, 0]
    assert all(each["exact"] for each in closes)
    assert closes[1]["went"] == ["libc.so.6", "libother.so"]
    assert {each["caller"]["function"] for each in closes} <= {"cycle", "space", "main"}
    seen = "dlclose" if host == GDB else "_dl_close, by _rtld_global_ro"
    assert result.report["breakpoints"]["closes"] == seen


@pytest.mark.parametrize("host", DEBUGGERS)
def test_failed_opens_and_threads(host: str, program: Path, tmp_path: Path) -> None:
    result = run(host, tmp_path / "failures", program, "failures", ["start", "go", "report"])
    failed = [each["requested"] for each in result.events("open") if each["result"] == "failed"]
    assert failed == ["libmissing.so", "libmissing.so"]
    result = run(host, tmp_path / "threads", program, "threads", ["start", "go", "report"])
    assert len(result.events("close")) == len(result.events("open")) == 81
    totals = result.report["totals"]
    assert (totals["mismatches"], totals["unended"], totals["unseen_opens"], totals["unseen_closes"]) == (0, 0, 0, 0)
