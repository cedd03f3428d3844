"""Does a failed open tell what dlerror says, where the program asks for that and where it does not?"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from dlwhy.common.linux.trace.failures import ERRNO_TEXTS
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.typed import DEBUGGERS
from dlwhy.tests.trace.debugging import HERE, debug


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program, and beside it libraries that cannot be opened, each for another reason."""
    folder = tmp_path_factory.mktemp("failures")
    source = folder / "lib.c"
    source.write_text(
        "#ifdef UNDEFINED\nextern int of_no_library; int *use(void) { return &of_no_library; }\n#endif\n"
        "#ifdef ASKING\n#define _GNU_SOURCE\n#include <dlfcn.h>\n"
        '__attribute__((constructor)) static void ask(void) { dlsym(RTLD_DEFAULT, "of_no_library"); }\n#endif\n'
    )
    shared = ["gcc", "-shared", "-fPIC", "-Wl,--no-as-needed"]
    for name, *words in (
        ("libgood.so",),
        ("libundefined.so", "-DUNDEFINED"),
        ("libasking.so", "-DASKING"),
        ("libgone.so",),
        ("libneedy.so", "libgone.so"),
    ):
        subprocess.run([*shared, "-o", name, *words[:1], "lib.c"], cwd=folder, check=True)
    (folder / "libgone.so").unlink()
    (folder / "libshort.so").write_bytes(b"\x7fELF")
    wrong = bytearray((folder / "libgood.so").read_bytes())
    wrong[4] = 3 - wrong[4]  # EI_CLASS
    (folder / "libwrong.so").write_bytes(wrong)
    (folder / "libfolder.so").mkdir()
    subprocess.run(["gcc", "-g", "-O1", "-o", folder / "failures", HERE / "failures.c", "-ldl"], check=True)
    return folder / "failures"


#: What fails, each for a reason of its own; what is looked up in between changes nothing about the one before.
FAILING = ["libmissing.so", "libmissing.so", "./libundefined.so", "dlsym", "./libwrong.so", "./libneedy.so", "dlsym"]
FAILING += ["./libshort.so", "./libfolder.so", "space=./libundefined.so"]
#: What raises no error, or opens.
OTHERS = ["noload=./libgood.so", "dlsym", "./libasking.so", "dlsym", "./libgood.so", "dlsym"]
COUNTED = "14 opens (8 failed, 1 with RTLD_NOLOAD found nothing)"


#: As in gdb 13 to 17 when there is a namespace.
NO_BREAKPOINT = (
    "python import dlwhy.common.linux.trace.tracer as tracer, dlwhy.common.linux.trace.entry_points as points; "
    "tracer.find_raisers = lambda *_, **__: {}; points.find_lock_point = lambda *_: None"
)


def errors_of(program: Path) -> list[str]:
    """Let the program itself say what dlerror says."""
    words = [str(program), "loudly", *FAILING]
    environment = {**os.environ, "LC_ALL": "C"}
    run = subprocess.run(
        words, cwd=program.parent, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    return [line.partition(" ")[2] for line in run.stdout.splitlines() if line.startswith("ERROR ")]


def trace(host: str, program: Path, steps: Sequence[str], before: Sequence[str] = ()) -> str:
    """Trace the program from main on, in its own folder, to its end; gives the report on one line."""
    go = "continue" if host == GDB else "process continue"
    commands = [*before, "dltrace start", go, "dltrace report -v"]
    run = debug(host, program.parent, program, commands, " ".join(steps))
    words = " ".join(run.output.split())
    assert COUNTED in words
    return words.rpartition(COUNTED)[2]


def judge(report: str, program: Path) -> None:
    """Hold a report against what the program itself says."""
    asked = [step.partition("=")[2] or step for step in FAILING if step != "dlsym"]
    expected = list(zip(asked, errors_of(program)))
    assert len(expected) == 8
    for name, error in expected:
        failed = rf"dlopen\({re.escape(name)}\) by [^()]+ \(failures\.c:\d+\) in failures: {re.escape(error)}\. "
        assert re.search(failed, report), (name, error, report)
    assert "dlopen(./libgood.so)" not in report
    assert report.count("undefined symbol: of_no_library") == 2, report


@pytest.mark.parametrize("how", ["loudly", "silently"])
@pytest.mark.parametrize("host", DEBUGGERS)
def test_a_failed_open_tells_what_dlerror_says(host: str, how: str, program: Path) -> None:
    judge(trace(host, program, [how, *OTHERS, *FAILING, *OTHERS]), program)


@pytest.mark.parametrize("how", ["loudly", "silently"])
def test_without_a_breakpoint_libc_still_has_the_text(how: str, program: Path) -> None:
    # gdb 13 to 17 can have none in ld.so, where the errors are raised since glibc 2.37.
    kept = [step for step in FAILING if step != "dlsym"]
    judge(trace(GDB, program, [how, *OTHERS, *kept, *OTHERS], [NO_BREAKPOINT]), program)
    # What is looked up in vain takes its place, and is not taken for it.
    report = trace(GDB, program, [how, *OTHERS, *FAILING, *OTHERS], [NO_BREAKPOINT])
    assert re.search(r"dlopen\(\./libneedy\.so\) by [^()]+ \(failures\.c:\d+\) in failures\. ", report), report
    assert report.count("undefined symbol: of_no_library") == 1, report


def test_the_errors_of_the_kernel_are_called_as_libc_calls_them() -> None:
    assert {number: os.strerror(number) for number in ERRNO_TEXTS} == ERRNO_TEXTS


@pytest.mark.parametrize("host", DEBUGGERS)
def test_an_open_that_lacks_static_tls_tells_who_has_it(host: str, program: Path, tmp_path: Path) -> None:
    folder = program.parent
    (folder / "tls.c").write_text(
        'static __thread __attribute__((tls_model("initial-exec"))) char big[SIZE];\nint f(void) { return ++big[0]; }\n'
    )
    for name, size in (("libsome.so", 400), ("libmuch.so", 3000), ("libhuge.so", 70000)):
        words = ["gcc", "-shared", "-fPIC", f"-DSIZE={size}", "-o", name, "tls.c"]
        subprocess.run(words, cwd=folder, check=True)
    steps = " ".join(str(folder / name) for name in ("libsome.so", "libhuge.so", "libmuch.so"))
    go = "continue" if host == GDB else "process continue"
    start = "dltrace start --log $LOG"
    result = debug(host, tmp_path, program, [start, go, "dltrace report"], f"silently {steps}")
    opens = [(each["result"], each["static_tls"]) for each in result.events("open")]
    # How large the surplus is differs from release to release; of what it has, libsome.so has got 400.
    assert opens[0] == ("loaded", None)
    for outcome, left in opens[1:]:
        assert outcome == "failed"
        assert left["held"] == [{"library": "libsome.so", "size": 400}]
        assert left["size"] == left["free"] + left["lost"] + 400
    left = opens[-1][1]
    expected = f"after #3: {left['free']} of {left['size']} bytes are free: 400 in libsome.so"
    assert expected in " ".join(result.output.split())
