"""Is a process read without touching it, and is it said plainly when it cannot be read?"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dlwhy
import pytest
from dlwhy.common.errors import FaultError, NoTargetError, UnsupportedError
from dlwhy.common.linux.dumps.procfs import ProcTarget
from dlwhy.tests.synth.process import compile_file

NOBODY = 65534


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as process:
        time.sleep(0.1)
        try:
            yield process.pid
        finally:
            process.kill()


def test_process_is_neither_stopped_nor_traced(sleeper: int) -> None:
    with dlwhy.open(sleeper) as process:
        state = process.state()
    status = Path(f"/proc/{sleeper}/status").read_text()
    assert state.libraries[0].name == "sleep"
    assert "TracerPid:\t0\n" in status
    assert "State:\tS" in status


def test_a_program_at_fixed_addresses_begins_where_it_is_mapped(tmp_path: Path) -> None:
    compile_file(tmp_path, "fixed", "#include <unistd.h>\nint main(void) { pause(); }", "-no-pie", language="c")
    with subprocess.Popen([tmp_path / "fixed"]) as process:
        time.sleep(0.1)
        try:
            with dlwhy.open(process.pid) as examined:
                (program, *others) = examined.libraries()
        finally:
            process.kill()
    assert (program.base, program.start, program.load_bias) == (0x400000, 0x400000, 0)
    assert [each.base for each in others] == [each.load_bias for each in others]
    assert "linux-vdso.so.1" in [each.name for each in others]


def test_own_process() -> None:
    with dlwhy.open(os.getpid()) as process:
        names = [library.name for library in process.state().libraries]
    assert "libc.so.6" in names


def test_library_list_is_that_of_the_maps(sleeper: int) -> None:
    with dlwhy.open(sleeper) as process:
        found = {os.path.realpath(path) for each in process.state().libraries if "/" in (path := each.path or "")}
    mapped = {line.split(None, 5)[5] for line in Path(f"/proc/{sleeper}/maps").read_text().splitlines() if "/" in line}
    assert found == {path for path in mapped if Path(path).read_bytes()[:4] == b"\x7fELF"}


def test_no_such_process() -> None:
    with pytest.raises(NoTargetError, match="there is no process 4194305"):
        dlwhy.open(4194305)


def test_zombie() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        for _ in range(100):
            if ") Z" in Path(f"/proc/{child}/stat").read_text():
                break
            time.sleep(0.02)
        with pytest.raises(NoTargetError, match="zombie"):
            dlwhy.open(child)
    finally:
        os.waitpid(child, 0)


def test_kernel_thread() -> None:
    """Where one is to be seen: a container shows none."""
    for pid in filter(is_kernel_thread, map(int, filter(str.isdigit, os.listdir("/proc")))):
        with pytest.raises(UnsupportedError, match="kernel thread"):
            dlwhy.open(pid)
        break


def test_flag_of_a_kernel_thread(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 9 0 0 20 0 1 0 24 0 0")
    target = ProcTarget.__new__(ProcTarget)
    target.pid, target._folder = 2, str(tmp_path)
    with pytest.raises(UnsupportedError, match="kernel thread"):
        target._check_state()


def is_kernel_thread(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/status").read_text().count("VmSize:") == 0 and not os.path.exists(f"/proc/{pid}/exe")
    except OSError:
        return False


def test_process_that_ends_while_it_is_read(sleeper: int) -> None:
    target = ProcTarget(sleeper)
    address = target.auxv()[3]
    assert len(target.read(address, 8)) == 8
    os.kill(sleeper, 9)
    time.sleep(0.2)
    with pytest.raises(FaultError):
        target.read(address, 8)
    target.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user to be refused")
def test_refusal_says_what_to_do(sleeper: int) -> None:
    program = (
        "import os, sys; os.setgid({0}); os.setuid({0}); os.execv({1!r}, [{1!r}, {2!r}, '--pid', '{3}', 'dlstate'])"
    ).format(NOBODY, "/usr/bin/python3", os.fspath(Path(dlwhy.__file__).parent), sleeper)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert f"process {sleeper} may not be read" in done.stderr
    assert "CAP_SYS_PTRACE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="root is refused without a capability")
def test_a_refusal_of_root_does_not_say_as_root(sleeper: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, _flags: int) -> int:
        raise PermissionError(path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NoTargetError, match="run dlwhy with CAP_SYS_PTRACE") as failure:
        ProcTarget(sleeper)
    assert "as root" not in str(failure.value)


def test_a_second_close_closes_nothing() -> None:
    """The number of the closed descriptor is soon another file's."""
    target = ProcTarget(os.getpid())
    target.close()
    other = os.open(os.devnull, os.O_RDONLY)
    try:
        target.close()
        os.fstat(other)
    finally:
        os.close(other)
    with pytest.raises(FaultError):
        target.read(0x1000, 1)


def test_a_script_closes_a_process_twice() -> None:
    with dlwhy.open(os.getpid()) as process:
        process.close()
        for ask in (process.state, process.plan, process.libraries):
            with pytest.raises(NoTargetError, match=rf"^process {os.getpid()} has been closed: open it again"):
                ask()
    process.close()
    with pytest.raises(NoTargetError, match="there is no process"):
        dlwhy.open(2**22 + 1)
