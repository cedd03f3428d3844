"""How does the shell's command end where something goes wrong: a bug, an interrupt, an output that takes nothing?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dlwhy
import pytest
from dlwhy.tests.support.documented import SCRIPTS, statuses
from dlwhy.tests.synth.elfcore import notes_first
from dlwhy.tests.synth.ntlayout import windows
from dlwhy.tests.synth.ntmachines import build
from dlwhy.tests.synth.windows import process, write

ROOT = Path(dlwhy.__file__).parent
#: Imported by Python at its start: what writes JSON cannot be imported.
BREAKER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
def fail():
    {body}
class Breaker:
    def find_spec(self, name, path=None, target=None):
        if name == "dlwhy.common.commands.dlstate.document":
            fail()
sys.meta_path.insert(0, Breaker())
"""
WAYS = {
    "checkout": [str(ROOT)],
    "module": ["-m", "dlwhy"],
    "console": ["-c", "from dlwhy.common.cli import entry; entry()"],
}
REPORT = "please report it with the traceback, which DLWHY_DEBUG=1 in the environment shows"


def environment(folder: Path, body: str = "pass", **variables: str) -> dict[str, str]:
    """Return an environment in which dlwhy can be imported, and is broken."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    if not (site / "dlwhy").exists():
        (site / "dlwhy").symlink_to(ROOT)
    (site / "sitecustomize.py").write_text(BREAKER.format(body=body))
    return {**os.environ, "PYTHONPATH": str(site), **variables}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise TypeError('it is\\nbroken')", "TypeError: it is broken"),
        ("raise MemoryError", "MemoryError"),
        ("fail()", "RecursionError: maximum recursion depth exceeded"),
        ("raise SystemError('\\x1b[31m')", "SystemError: \\x1b[31m"),
    ],
)
def test_a_bug_is_one_line(way: str, body: str, said: str, rich_core: Path, tmp_path: Path) -> None:
    words = [sys.executable, *WAYS[way], "--strict", "--core", str(rich_core), "dlstate", "libplain.so", "--json"]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=environment(tmp_path, body), cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (70, "")
    assert done.stderr.startswith(f"dlstate: a bug in dlwhy: {said}")
    assert done.stderr.endswith(f" (common/commands/session.py:{line_of_import()}); {REPORT}\n")
    assert done.stderr.count("\n") == 1


def line_of_import() -> int:
    lines = (ROOT / "common" / "commands" / "session.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if "import_module(f" in line)


def test_a_bug_with_its_traceback(rich_core: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT), "--core", str(rich_core), "dlstate", "libplain.so", "--json"]
    variables = environment(tmp_path, "raise TypeError('broken')", DLWHY_DEBUG="1")
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=variables)
    first, second, *_, last = done.stderr.splitlines()
    assert first.startswith("dlstate: a bug in dlwhy: TypeError: broken (common/")
    assert first.endswith("; please report it with this traceback")
    assert (second, last) == ("Traceback (most recent call last):", "TypeError: broken")
    assert done.returncode == 70


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt_is_quiet(way: str, rich_core: Path, tmp_path: Path) -> None:
    body = f"import time; open({str(tmp_path / 'begun')!r}, 'w').close(); time.sleep(60)"
    words = [sys.executable, *WAYS[way], "--core", str(rich_core), "dlstate", "libplain.so", "--json"]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path, body),
        cwd=tmp_path,
    ) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 130


def redirected(words: list[str], where: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run dlwhy with a redirection of the shell's."""
    script = f'exec "$@" {where}'
    words = ["sh", "-c", script, "sh", sys.executable, *words]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment(folder), cwd=folder)


ANSWERS = [["dlstate"], ["dlstate", "--json"], ["dlstate", "--help"]]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("words", [*ANSWERS, ["--help"], ["help"], ["help", "dlstate"]])
def test_a_full_disk_is_one_line(way: str, words: list[str], rich_core: Path, tmp_path: Path) -> None:
    about = ["--core", str(rich_core)] if words in ANSWERS else []
    done = redirected([*WAYS[way], *about, *words], ">/dev/full", tmp_path)
    name = words[0] if words in ANSWERS else "dlwhy"
    assert (done.returncode, done.stderr) == (3, f"{name}: cannot write: No space left on device\n")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("words", [*ANSWERS, ["--strict", "dlstate", "libplain.so"], ["dlstate", "libnone.so"]])
def test_a_closed_output_is_quiet(way: str, words: list[str], rich_core: Path, tmp_path: Path) -> None:
    known = [*WAYS[way], "--core", str(rich_core), *words]
    plain = redirected(known, "", tmp_path)
    done = redirected(known, ">&-", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, "", plain.stderr)
    assert redirected(known, ">&- 2>&- <&-", tmp_path).returncode == plain.returncode


def test_no_stream_for_what_goes_wrong(rich_core: Path, tmp_path: Path) -> None:
    words = [str(ROOT), "--core", str(rich_core), "dlstate", "libnone.so"]
    for where in ("2>&-", "2>/dev/full", ">/dev/full 2>/dev/full"):
        assert redirected(words, where, tmp_path).returncode == 2
    assert (
        redirected([str(ROOT), "--core", str(rich_core), "dlstate"], ">/dev/full 2>/dev/full", tmp_path).returncode == 3
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_reader_that_has_gone_is_quiet(way: str, rich_core: Path, tmp_path: Path) -> None:
    words = [sys.executable, *WAYS[way], "--core", str(rich_core), "dlstate", "--json"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        words, stdout=writer, stderr=subprocess.PIPE, check=False, env=environment(tmp_path), cwd=tmp_path
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


#: Each exit status that is documented: the words, what is broken, and how they are run.
ROWS = {
    0: ["--core", "CORE", "dlstate", "libplain.so"],
    1: ["--strict", "--core", "CORE", "dlstate", "libplain.so"],
    2: ["dlstate"],
    3: ["--core", "/dev/null", "dlstate"],
    4: ["--strict", "--core", "CUT", "dlstate", "libplain.so"],
    70: ["--core", "CORE", "dlstate", "--json"],
    130: ["--core", "CORE", "dlstate", "--json"],
}
BROKEN = {70: "raise TypeError('broken')", 130: "raise KeyboardInterrupt"}


def test_the_table_is_the_same_on_each_page() -> None:
    assert statuses(SCRIPTS) == statuses(ROOT / "README.md")
    assert list(statuses(SCRIPTS)) == list(ROWS)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", ROWS)
def test_an_exit_status_of_the_table(way: str, status: int, rich_core: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(notes_first(rich_core.read_bytes())[:-4096])
    words = [{"CORE": str(rich_core), "CUT": str(cut)}.get(word, word) for word in ROWS[status]]
    done = subprocess.run(
        [sys.executable, *WAYS[way], *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment(tmp_path, BROKEN.get(status, "pass")),
        cwd=tmp_path,
    )
    assert done.returncode == status, done.stderr
    assert bool(done.stdout) == (status in (0, 1, 4))
    assert done.stderr.count("\n") == (status in (2, 3, 70))


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["dlstate"], 0),
        (["dlstate", "libleft.so"], 0),
        (["dlplan", "--all"], 0),
        (["dlplan", "libplain.so", "--closes", "all"], 0),
        (["dlplan", "libplain.so"], 1),
        (["--dump", "DUMP", "dllstate"], 0),
        (["--dump", "DUMP", "dllstate", "libA"], 1),
        (["--dump", "DUMP", "dllplan", "libA", "--frees", "all"], 0),
        (["--dump", "DUMP", "dllplan", "libA"], 1),
        (["--dump", "DUMP", "dllgone", "1"], 0),
        (["--dump", "DUMP", "dllgone"], 1),
        (["--dump", "MACHINE", "dllshare", "--all"], 4),  # a name cannot be read
        (["--dump", "MACHINE", "dllshare", "held.dll"], 1),
    ],
)
def test_findings(words: list[str], status: int, rich_core: Path, tmp_path: Path) -> None:
    """What `--strict` takes for a finding, without which each is 0."""
    files = {"DUMP": str(write(tmp_path, process().dump())), "MACHINE": str(tmp_path / "MEMORY.DMP")}
    build(windows("10.0.19041.3570")).save(tmp_path / "MEMORY.DMP", "complete")
    target = [] if words[0] == "--dump" else ["--core", str(rich_core)]
    given = [*target, *(files.get(word, word) for word in words)]
    for strict, expected in (([], 4 if status == 4 else 0), (["--strict"], status)):
        done = subprocess.run([sys.executable, str(ROOT), *strict, *given], capture_output=True, text=True, check=False)
        assert done.returncode == expected, done.stdout + done.stderr
