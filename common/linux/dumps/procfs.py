"""What does /proc reveal of a running process, without attaching to it or stopping it?

Source: proc(5).  Reading /proc/PID/mem needs the right to trace the process, but does not trace it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Optional

from ...charset import decode
from ...errors import FaultError, NoTargetError, UnsupportedError
from ...files import open_first
from ...model import Layout, Module, Platform, Problem, Thread
from ...target import Capability
from ..auxv import AT_PHDR, parse_auxv
from ..elf.machine import PROGRAM_COUNTER, platform_of, stack_register

#: include/linux/sched.h; field 9 of /proc/PID/stat.
_PF_KTHREAD = 0x00200000
_START_TIME = 19  # field 22, counted from behind the name

_MAX_THREADS = 1 << 17


def find_inner_id(pid: int, lwp: int) -> Optional[int]:
    """Find a thread's id in the process's own PID namespace; None if that is ours."""
    try:
        if os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid"):
            return None
        with open(f"/proc/{pid}/task/{lwp}/status", "rb") as stream:
            numbers = next((line.split()[1:] for line in stream if line.startswith(b"NSpid:")), [])
    except OSError:
        return None
    return int(numbers[-1]) if numbers else None


def thread_name(pid: int, lwp: int) -> Optional[str]:
    """Read a thread's name; the kernel keeps 15 bytes of it, so it can end within a character."""
    try:
        with open(f"/proc/{pid}/task/{lwp}/comm", "rb") as stream:
            return decode(stream.read()).removesuffix("\n")
    except OSError:
        return None


def read_exactly(descriptor: int, address: int, size: int) -> bytes:
    """Read memory through an open ``/proc/PID/mem``.

    :raises FaultError: if any of it cannot be read.
    """
    try:
        data = os.pread(descriptor, size, address)
    except (OSError, OverflowError) as error:
        raise FaultError(address, size) from error
    if len(data) < size:
        raise FaultError(address, size)
    return data


def open_file_of(pid: int, path: str) -> Optional[BinaryIO]:
    """Open a file by a process's name for it: in its root, mounts and current folder; None if it cannot be opened."""
    root = f"/proc/{pid}/root"
    if not path.startswith("/"):
        try:
            # Both are paths as we see them, so the process's root is removed from the front.
            folder, outer = _link(f"/proc/{pid}/cwd"), _link(root).rstrip("/")
        except OSError:
            return None
        if not f"{folder}/".startswith(f"{outer}/"):
            return None
        path = f"{folder[len(outer) :]}/{path}"
    return open_first([path], root)


def program_of(pid: int) -> Optional[str]:
    """Return the path of a process's program as the process sees it, None if access is denied."""
    try:
        path = decode(os.readlink(f"/proc/{pid}/exe".encode()))
    except OSError:
        return None
    deleted = " (deleted)"
    return path[: -len(deleted)] if path.endswith(deleted) else path


def started_at(pid: int) -> Optional[float]:
    """Return when a process was started, in seconds since 1970; None if that cannot be read (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
        ticks = int(fields[_START_TIME])
    except (OSError, IndexError, ValueError):
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def _link(path: str) -> str:
    return os.readlink(path.encode()).decode("utf-8", "surrogateescape")


class ProcTarget:
    """A process of this machine, read while it runs."""

    kind = "live"
    capabilities = Capability.LIVE | Capability.RUNNING

    def __init__(self, pid: int) -> None:
        """Open a process by its id.

        :raises NoTargetError: if it does not exist, has exited, or may not be read.
        :raises UnsupportedError: if it is a kernel thread.
        """
        self.pid = pid
        self._folder = f"/proc/{pid}"
        self._problems: tuple[Problem, ...] = ()
        self._check_state()
        try:
            self._memory = os.open(f"{self._folder}/mem", os.O_RDONLY | os.O_CLOEXEC)
            self.platform = self._find_platform()
            with open(f"{self._folder}/auxv", "rb") as stream:
                self._auxv = parse_auxv(stream.read(), self.platform.pointer_size, self.platform.byteorder)
        except PermissionError as error:
            raise NoTargetError(self._permission_message()) from error
        except (FileNotFoundError, ProcessLookupError) as error:
            raise NoTargetError(f"process {pid} has exited") from error

    def close(self) -> None:
        """Close the process's files; a second close does nothing, since the descriptor may be another's by then."""
        memory, self._memory = self._memory, -1
        if memory >= 0:
            os.close(memory)

    def _check_state(self) -> None:
        try:
            with open(f"{self._folder}/stat", "rb") as stream:
                state = stream.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError) as error:
            raise NoTargetError(f"there is no process {self.pid}") from error
        if state[:1] in ([b"Z"], [b"X"]):
            raise NoTargetError(f"process {self.pid} has exited and is a zombie: nothing is left of its memory")
        if len(state) > 6 and int(state[6]) & _PF_KTHREAD:
            raise UnsupportedError(f"{self.pid} is a kernel thread: it has no libraries")

    def _permission_message(self) -> str:
        if os.geteuid() == 0:
            return (
                f"process {self.pid} may not be read, not even by root here: run dlwhy with CAP_SYS_PTRACE in the user "
                "namespace of the process (in containers: outside); see also /proc/sys/kernel/yama/ptrace_scope"
            )
        try:
            owner = os.stat(self._folder).st_uid
        except OSError:
            owner = -1
        return (
            f"process {self.pid} may not be read: run dlwhy as the user who may trace it (its uid is {owner}, yours "
            f"is {os.geteuid()}), as root, or with CAP_SYS_PTRACE; see also /proc/sys/kernel/yama/ptrace_scope"
        )

    def _exe_header(self) -> bytes:
        with open(f"{self._folder}/exe", "rb") as stream:
            header = stream.read(64)
        if len(header) < 20 or header[:4] != b"\x7fELF":
            raise UnsupportedError(f"process {self.pid} does not run an ELF file")
        return header

    def _find_platform(self) -> Platform:
        platform = platform_of(self._exe_header())
        if platform is None:
            raise UnsupportedError(f"process {self.pid} runs on an architecture that is not supported")
        return platform

    @property
    def description(self) -> str:
        """Describe the process."""
        return f"process {self.pid}"

    def problems(self) -> Sequence[Problem]:
        """Return a problem if the process has too many threads."""
        return self._problems

    def read(self, address: int, size: int) -> bytes:
        """Read memory."""
        return read_exactly(self._memory, address, size)

    def auxv(self) -> Mapping[int, int]:
        """Return the auxiliary vector."""
        return self._auxv

    def modules(self) -> Sequence[Module]:
        """Return the main program."""
        path = program_of(self.pid)
        return (Module(path, self._auxv.get(AT_PHDR, 0) & ~0xFFF),) if path is not None else ()

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Return None: there is no debugger."""
        return None

    def threads(self) -> Sequence[Thread]:
        """List the threads, the main thread first."""
        try:
            lwps = sorted(int(name) for name in os.listdir(f"{self._folder}/task"))
        except OSError:
            return ()
        if len(lwps) > _MAX_THREADS:
            message = f"it has {len(lwps)} threads, of which {_MAX_THREADS} are looked at"
            self._problems = (Problem(f"process {self.pid}", message),)
            del lwps[_MAX_THREADS:]
        lwps.sort(key=lambda lwp: lwp != self.pid)
        pid = self.pid
        return [Thread(n, lwp, thread_name(pid, lwp), find_inner_id(pid, lwp)) for n, lwp in enumerate(lwps, 1)]

    def registers(self, thread: Thread, names: Sequence[str] = ()) -> Mapping[str, int]:
        """Read the program counter and stack pointer of a thread that waits; only a tracer may read other registers.

        The kernel shows "NUMBER ARGUMENTS SP PC" of a thread in a system call, "-1 SP PC" of one that is stopped
        elsewhere, and "running" of one on a processor.
        """
        try:
            with open(f"{self._folder}/task/{thread.lwp}/syscall", "rb") as stream:
                words = stream.read().split()
        except OSError:
            return {}
        if len(words) < 3:
            return {}
        stack, instruction = (int(word, 16) for word in words[-2:])
        return {stack_register(self.platform): stack, PROGRAM_COUNTER: instruction}

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open a module's file in the process's own mount namespace."""
        from .mappings import open_module  # few answers need a file

        return open_module(self.pid, module)
