"""Does the shell command answer, and do its exit status and errors say what happened?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dlwhy
import pytest
from dlwhy.tests.synth.elfcore import notes_first

ROOT = Path(dlwhy.__file__).parent


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        cwd="/",
    )


def test_answer(rich_core: Path) -> None:
    done = run("--core", str(rich_core), "dlstate", "libplain.so")
    assert done.stdout.splitlines()[0] == "libplain.so stays loaded: opened 2 times, not closed."
    assert done.returncode == 0


def test_json_is_a_document(rich_core: Path) -> None:
    done = run("--core", str(rich_core), "dlstate", "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == "dlwhy/1"
    assert document["target"]["kind"] == "core"


def test_strict_makes_a_held_library_a_finding(rich_core: Path) -> None:
    assert run("--core", str(rich_core), "--strict", "dlstate", "libplain.so").returncode == 1
    assert run("--core", str(rich_core), "--strict", "dlstate").returncode == 0
    assert run("--core", str(rich_core), "dlstate", "--strict", "libplain.so").returncode == 1
    assert run("--core", str(rich_core), "dlstate", "libplain.so", "--strict", "--json").returncode == 1


def test_the_version_is_that_of_the_package() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"dlwhy {dlwhy.__version__}\n", "")


@pytest.mark.parametrize("words", [["dlstate", "--verb"], ["dlplan", "libplain.so", "--clos", "1"], ["dlplan", "--al"]])
def test_options_are_not_abbreviated(rich_core: Path, words: Sequence[str]) -> None:
    done = run("--core", str(rich_core), *words)
    assert (done.returncode, "unrecognized arguments: --" in done.stderr) == (2, True), done.stderr


def test_where_strict_stands_is_said() -> None:
    told = " ".join(run("--help").stdout.split())
    assert "the options below stand before it" in told
    assert "exit with 1 if there are findings: what was asked about stays, or something is wrong; also after" in told
    for page in ("README.md", "docs/scripts.md"):
        assert "answered, with `--strict`, and there are findings" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        *(
            ([name, *words], 2, f"{name}: nothing to examine: give --pid PID, --core FILE or --dump FILE")
            for name, words in (
                ("dlstate", []),
                ("dlstate", ["libB.so"]),
                ("dlplan", ["libB.so"]),
                ("dlplan", ["--all"]),
                ("dllstate", []),
                ("dllplan", ["a.dll"]),
                ("dllgone", []),
                ("dllshare", ["--all"]),
            )
        ),
        (["--core", "CORE", "dllstate"], 3, "it is not a process of Windows"),
        (["--core", "CORE", "dltrace", "start"], 3, "a trace needs a debugger that runs the process"),
        (["--core", "CORE", "dlplan"], 2, "name one library, or give --all"),
        (["--core", "CORE", "dlplan", "libplain.so", "--closes", "0"], 2, "--closes takes a number from 1 on"),
        (["--core", "CORE", "dlplan", "libnone.so"], 2, "no loaded library matches 'libnone.so'"),
        (["--core", "/nonexistent", "dlstate"], 3, "/nonexistent: No such file"),
        (["--core", "/proc/self/exe", "dlstate"], 3, "no core"),
        (["--pid", "4194305", "dlstate"], 3, "there is no process"),
        (["--pid", "x", "dlstate"], 2, "invalid int value"),
        (["--pid", "1", "--core", "x", "dlstate"], 2, "not allowed with"),
        (["nonsense"], 2, "there is no command nonsense; commands: dl"),
        (["--core", "CORE", "dlstate", "--nonsense"], 2, "unrecognized arguments: --nonsense"),
        (["--core", "CORE", "dlstate", "libnone.so"], 2, "no loaded library matches 'libnone.so'"),
        (["--core", "CORE", "dlstate", ""], 2, "no loaded library matches ''"),
        (["dlstate", "--pid", "1"], 2, "--pid is an option of dlwhy itself: give it before the command"),
        (
            ["dlplan", "--core=CORE", "libplain.so"],
            2,
            "--core is an option of dlwhy itself: give it before the command",
        ),
        (["--core", "CORE", "dlstate", "--sysroot", "/"], 2, "--sysroot is an option of dlwhy itself: give it before"),
        (["--core", "CORE", "--sysroot", "/nonexistent", "dlstate"], 2, "there is no folder /nonexistent"),
        (
            ["--core", "CORE", "--exe", "/nonexistent", "dlstate"],
            2,
            "given as the core's program, is no file",
        ),
        (["--max-size", "1.5G", "--core", "CORE", "dlstate"], 2, "--max-size: '1.5G' is no size such as 500M"),
        ([], 2, "required: COMMAND; see"),
        (["dllstate", "--pid", "1"], 2, "before the command; a process of a kernel dump is given by --process"),
        (["--pid", "1", "--exe", "/bin/true", "dlstate"], 2, "--exe is for cores, not for --pid"),
        (["--pid", "1", "--sysroot", "/", "dlstate"], 2, "--sysroot is for cores, not for --pid"),
        (["--pid", "1", "--max-size", "1G", "dlstate"], 2, "--max-size is for files, not for --pid"),
        (["--dump", "/nonexistent", "--exe", "/bin/true", "dllstate"], 2, "--exe is for cores, not for --dump"),
    ],
)
def test_errors_are_one_line(rich_core: Path, words: list[str], status: int, message: str) -> None:
    done = run(*(str(rich_core) if word == "CORE" else word for word in words))
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_core_that_is_cut_off_is_answered_with_problems(rich_core: Path, tmp_path: Path) -> None:
    whole = notes_first(rich_core.read_bytes())
    cut = tmp_path / "core"
    cut.write_bytes(whole)
    assert run("--core", str(cut), "dlstate").returncode == 0
    cut.write_bytes(whole[:-4096])
    done = run("--core", str(cut), "dlstate")
    assert done.returncode == 4, done.stderr
    assert f"problem: core file {cut}: it is cut off: the file has {len(whole) - 4096} bytes of" in " ".join(
        done.stdout.split()
    )
    assert run("--core", str(cut), "--strict", "dlstate", "libplain.so").returncode == 4, "held, but not surely"


@pytest.mark.parametrize("words", [["--help"], ["help"], ["help", "dlstate"], ["dlstate", "--help"]])
def test_help(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 0
    assert "sage: dl" in done.stdout


def test_colour_only_when_wanted(rich_core: Path) -> None:
    words = ["--core", str(rich_core), "dlstate"]
    assert "\x1b[" not in run(*words).stdout
    assert "\x1b[" in run(*words, "--color=always").stdout
    assert "\x1b[" not in run(*words, "--color=never").stdout


def test_reader_that_goes_away(rich_core: Path) -> None:
    command = f"{sys.executable} {ROOT} --core {rich_core} dlstate --json | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
