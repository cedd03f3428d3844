"""How are a target's bytes, threads and layouts obtained from the debugger engine?  Through pykd 0.3.4.

Two traps: pykd sign-extends addresses of 32-bit targets both ways, and in a WoW64 process, where the engine starts in
32-bit mode, it truncates 64-bit addresses: each request runs in the native loader's mode.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Optional, Union

import pykd

from ..common.errors import DlwhyError, FaultError, NoTargetError, UnsupportedError
from ..common.files import open_first
from ..common.memory import Memory
from ..common.model import Field, Layout, Module, Platform, Problem, Thread
from ..common.target import AddressSpace, Capability
from ..common.windows.dumps.minidump import MinidumpTarget
from ..common.windows.kernel.kernel import rsds
from ..common.windows.model import ListedImage, SystemVersion, UnloadedImage
from ..common.windows.target import MACHINE_REFUSAL, PROCESSOR_REFUSAL, SYSTEM_REFUSAL, TRIAGE_REFUSAL, RaisedException
from .regions import list_writable

PLATFORMS = {
    "AMD64": Platform("x86_64", 8, "little", "windows"),
    "I386": Platform("i386", 4, "little", "windows"),
    "ARM64": Platform("aarch64", 8, "little", "windows"),
}
# An unnamed type; each compiler has its own word for it.
_UNNAMED = re.compile(r"<unnamed-|<anonymous-|__unnamed")
_MAX_NESTED_STRUCTS = 4
_UNLOADED = re.compile(r"^Unloaded modules:$", re.MULTILINE)
_UNLOADED_MODULE = re.compile(
    r"^(?P<base>[0-9a-f`]+) [0-9a-f`]+ +(?P<name>.*)\n"
    r" +Timestamp: .*\((?P<timestamp>[0-9A-F]+)\)\n"
    r" +Checksum: +(?P<checksum>[0-9A-F]+)\n +ImageSize: +(?P<size>[0-9A-F]+)",
    re.MULTILINE,
)
_MACHINE_ARM64 = 0xAA64
_UNLOADED_STREAM = "UnloadedModuleListStream"
#: How `r` begins if .cxr or .ecxr has set a context.
_SET_CONTEXT = "Last set context:"
_EXCEPTION_EVENT = re.compile(r"^Last event: [0-9a-f]+\.(?P<tid>[0-9a-f]+): .* - code [0-9a-f]{8}\b", re.MULTILINE)
_WINDOWS = re.compile(r"^Windows ", re.MULTILINE)
_REGISTER = re.compile(r"\b(?P<name>r[a-z0-9]+|e[a-z]{2}|x[0-9]+|fp|lr|sp|pc)=(?P<value>[0-9a-f]+)")
# A thread's first line has its number, the current one's after a dot or hash; its start is the address in brackets.
_THREAD_LINE = re.compile(r"^[.# ] *(\d+) +Id: ", re.MULTILINE)
_THREAD_START = re.compile(r"Start: [^\0]*?\(([0-9a-f`]+)\)\n")
_REGISTERS = {
    "x86_64": ("rip", "rsp", "rbp", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", *(f"r{n}" for n in range(8, 16))),
    "aarch64": (*(f"x{n}" for n in range(29)), "fp", "lr", "sp", "pc"),
    "i386": ("eip", "esp", "ebp", "eax", "ebx", "ecx", "edx", "esi", "edi"),
}


class EngineTarget:
    """The debugger engine's target: memory, modules and types of a process or a machine."""

    def __init__(self) -> None:
        """Create the target that the engine examines.

        :raises NoTargetError: if there is none.
        :raises UnsupportedError: if the structures of its processor are not known.
        """
        try:
            self._is_dump = bool(pykd.isDumpAnalyzing())
            name = str(pykd.getCPUType())
            self._mode = pykd.getCPUMode()
        except pykd.DbgException as error:
            raise NoTargetError("no target: open a dump, start a program or attach to a process first") from error
        if name not in PLATFORMS:
            raise UnsupportedError(f"{self._name} {PROCESSOR_REFUSAL.format(name)}")
        self.platform = PLATFORMS[name]
        self._native = getattr(pykd.CPUType, name)
        self._problems: list[Problem] = []
        self.kind = "dump" if self._is_dump else "live"

    @contextmanager
    def _native_mode(self) -> Iterator[None]:
        """Switch the engine to the native loader's mode; the user's mode is restored."""
        if self._mode == self._native:
            yield
            return
        pykd.setCPUMode(self._native)
        try:
            yield
        finally:
            pykd.setCPUMode(self._mode)

    @property
    def pid(self) -> Optional[int]:
        """Return the process id; a machine has none."""
        return None

    @property
    def _where(self) -> str:
        """Return the dump's path as the engine reports it, empty without one."""
        found = re.search(r"dump: (.*\S)", pykd.dbgCommand("||") or "") if self._is_dump else None
        return found[1] if found else ""

    @property
    def _name(self) -> str:
        """Return what refusals call the target."""
        return self._where or "the target"

    def problems(self) -> Sequence[Problem]:
        """Return what could not be read; what is wrong with a dump the engine itself reports."""
        return self._problems

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory."""
        with self._native_mode():
            return self._load(address, size, False)

    def _load(self, address: int, size: int, is_physical: bool) -> bytes:
        """Read memory as words of 8 bytes: a list of single bytes takes pykd six times as long."""
        if size == 0:
            return b""
        count, rest = divmod(size, 8)
        try:
            words = pykd.loadQWords(address, count, is_physical) if count else ()
            tail = pykd.loadBytes(address + 8 * count, rest, is_physical) if rest else ()
        except (pykd.DbgException, OverflowError) as error:
            raise FaultError(address, size, "not in the dump" if self._is_dump else "") from error
        return struct.pack(f"<{count}Q", *words) + bytes(tail)

    def auxv(self) -> Mapping[int, int]:
        """Return an empty mapping: Windows has no auxiliary vector."""
        return {}

    def modules(self) -> Sequence[Module]:
        """List the modules, in the order of their addresses."""
        mask = self.platform.address_mask
        return [Module(str(each.image()), each.begin() & mask) for each in self._modules()]

    def _modules(self) -> Sequence[Any]:
        with self._native_mode():
            return list(pykd.getModulesList())

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Find a structure in the module's PDB; without a PDB, or with a wrong one, the engine has no types."""
        try:
            info = pykd.module(module.base).type(type_name)
            if not info.isUserDefined():
                return None
            fields = dict(_fields(info))
            return Layout(type_name, int(info.size()), fields) if fields else None
        except pykd.DbgException:
            return None  # then the tables serve, and the answer names its source

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open the module's file, which is on this machine if the process is."""
        return open_first([module.path], "/")


def _fields(info: Any, prefix: str = "", base: int = 0, depth: int = 0) -> Iterator[tuple[str, Field]]:
    """Yield the members; members of a member of unnamed type by their path, in addition to it."""
    for index, (name, member) in enumerate(info.fields()):
        offset = base + int(info.fieldOffset(index))
        if member.isBitField():
            yield prefix + name, Field(offset, int(member.size()), int(member.bitOffset()), int(member.bitWidth()))
            continue
        yield prefix + name, Field(offset, int(member.size()))
        if member.isUserDefined() and _UNNAMED.search(member.name()) and depth < _MAX_NESTED_STRUCTS:
            yield from _fields(member, f"{prefix}{name}.", offset, depth + 1)


class ProcessTarget(EngineTarget):
    """A process of Windows, or a dump of one."""

    def __init__(self) -> None:
        """Create the target.

        :raises NoTargetError: if there is none.
        :raises UnsupportedError: if the structures of its processor are not known, or it is of another system.
        """
        super().__init__()
        # The engine takes any minidump for one of Windows, but does not name the system of another.
        if self._is_dump and not _WINDOWS.search(pykd.dbgCommand("vertarget") or ""):
            raise UnsupportedError(f"{self._name} {SYSTEM_REFUSAL}")

    @property
    def capabilities(self) -> Capability:
        """Return LIVE for a process, which the engine has stopped, and NONE for a dump."""
        return Capability.NONE if self._is_dump else Capability.LIVE

    @property
    def pid(self) -> Optional[int]:
        """Return the process id, None if a dump does not have it."""
        try:
            return int(pykd.targetProcess.getCurrent().systemID)
        except pykd.DbgException:
            return None  # which is: not known

    @property
    def description(self) -> str:
        """Describe the target."""
        return f"dump {self._where}".rstrip() if self._is_dump else f"process {self.pid}"

    @property
    def system(self) -> SystemVersion:
        """Return the version of Windows as the engine reports it."""
        try:
            version = pykd.getSystemVersion()
            return SystemVersion(int(version.win32Major), int(version.win32Minor), int(version.buildNumber))
        except pykd.DbgException:
            return SystemVersion(0, 0, 0)  # which is: not known; the PEB has its own

    def images(self) -> Sequence[ListedImage]:
        """List the modules with what their headers say, the main program first."""
        mask = self.platform.address_mask
        found = [
            ListedImage(str(m.image()), m.begin() & mask, int(m.size()), int(m.timestamp()), int(m.checksum()))
            for m in self._modules()
        ]
        program = str(pykd.targetProcess.getCurrent().exeName)
        return sorted(found, key=lambda image: image.path != program)

    @property
    def images_complete(self) -> bool:
        """Return True if the engine lists any module: it does not say what its list lacks."""
        return bool(self._modules())

    def modules(self) -> Sequence[Module]:
        """List the modules, the main program first."""
        return [Module(image.path, image.base) for image in self.images()]

    def unloaded_images(self) -> Optional[Sequence[UnloadedImage]]:
        """List the modules that the engine knows to be unloaded, which it reports only as text; None without a list."""
        if not _UNLOADED.search(pykd.dbgCommand("lm") or ""):
            # The engine shows no empty list; of a process it knows only what was unloaded since it attached.
            has_list = self._is_dump and _UNLOADED_STREAM in (pykd.dbgCommand(".dumpdebug") or "")
            return () if has_list else None
        found = _UNLOADED.split(pykd.dbgCommand("lmv") or "", 1)
        mask = self.platform.address_mask
        return [
            UnloadedImage(
                match["name"].strip(),
                int(match["base"].replace("`", ""), 16) & mask,
                int(match["size"], 16),
                int(match["timestamp"], 16),
                int(match["checksum"], 16),
            )
            for match in _UNLOADED_MODULE.finditer(found[-1])
        ]

    def thread_starts(self) -> Mapping[int, int]:
        """Return where threads began, which the engine reports only as text."""
        found = re.split(_THREAD_LINE, pykd.dbgCommand("~*") or "")
        starts = {}
        for number, text in zip(found[1::2], found[2::2]):
            address = _THREAD_START.search(text)
            if address:
                starts[int(number)] = int(address[1].replace("`", ""), 16) & self.platform.address_mask
        return starts

    def memory_ranges(self) -> Optional[Sequence[tuple[int, int]]]:
        """List the ranges of a dump by our own reader, and of a process on this machine as the system lists them."""
        if not self._is_dump:
            return list_writable(self.pid)
        try:
            dump = MinidumpTarget(self._where)
        except DlwhyError:
            return None
        try:
            return dump.memory_ranges()
        finally:
            dump.close()

    def peb(self) -> Optional[int]:
        """Return the address of the native PEB."""
        try:
            return int(pykd.getProcessOffset()) & self.platform.address_mask or None
        except pykd.DbgException:
            return None  # a problem of the answer says that it is not in memory

    def threads(self) -> Sequence[Thread]:
        """List the threads by the engine's numbers."""
        try:
            found = pykd.targetProcess.getCurrent().threads()
            return [Thread(int(each.id), int(each.systemID)) for each in found]
        except pykd.DbgException:
            return ()  # who looks for pointers in threads says that none are listed

    def registers(self, thread: Thread, names: Sequence[str] = ()) -> Mapping[str, int]:
        """Read a thread's registers, and its TEB as ``thread_pointer``; the user's selected thread stays selected."""
        before = pykd.targetThread.getCurrent()
        with self._own_context():
            try:
                found = next((t for t in pykd.targetProcess.getCurrent().threads() if t.id == thread.number), None)
                if found is None:
                    return {}
                values = {"thread_pointer": int(found.teb)}
                found.setCurrent()
                with self._native_mode():
                    values.update((name, int(pykd.reg(name))) for name in _REGISTERS[self.platform.arch])
            except pykd.DbgException:
                return {}  # without a stack pointer the stack counts as unread
            finally:
                before.setCurrent()
        return {name: value & self.platform.address_mask for name, value in values.items()}

    @contextmanager
    def _own_context(self) -> Iterator[None]:
        """Show threads' own registers; the exception's context is set again if the user has set it."""
        before = pykd.dbgCommand("r") or "" if self._is_dump else ""
        if not before.startswith(_SET_CONTEXT):
            yield
            return
        pykd.dbgCommand(".cxr")
        try:
            yield
        finally:
            pykd.dbgCommand(".ecxr")
            if pykd.dbgCommand("r") != before:
                pykd.dbgCommand(".cxr")  # it was another one, whose address the engine does not show

    def stack(self, thread: Thread) -> Optional[tuple[int, int]]:
        """Return None: the engine does not show what a dump lists."""
        return None

    def exception(self) -> Optional[RaisedException]:
        """Return the exception of a dump with its own context, or the one at which the process has stopped."""
        event = _EXCEPTION_EVENT.search(pykd.dbgCommand(".lastevent") or "")
        if event is None:
            return None
        tid = int(event["tid"], 16)
        try:
            record = pykd.getLastException()
            registers = self._exception_registers(tid)
        except pykd.DbgException as error:
            self._problems.append(Problem("exception", f"it cannot be read: {' '.join(str(error).split())}"))
            return None
        if registers is None:
            return None
        mask = self.platform.address_mask
        parameters = tuple(int(each) & mask for each in record.parameters)
        code = int(record.exceptionCode) & 0xFFFFFFFF
        return RaisedException(tid, code, int(record.exceptionAddress) & mask, parameters, registers)

    def _exception_registers(self, tid: int) -> Optional[Mapping[str, int]]:
        """Return the registers where an exception was raised, None if the dump has no exception."""
        names = _REGISTERS[self.platform.arch]
        if not self._is_dump:
            thread = next((each for each in self.threads() if each.lwp == tid), None)
            found = self.registers(thread) if thread else {}
            return {name: value for name, value in found.items() if name in names}
        with self._own_context(), self._native_mode():
            text = pykd.dbgCommand(".ecxr") or ""
            pykd.dbgCommand(".cxr")
        found = {match["name"]: int(match["value"], 16) for match in _REGISTER.finditer(text)}
        return {name: found[name] for name in names if name in found} or None


class MachineTarget(EngineTarget):
    """A whole machine of Windows: a kernel debug session, or a dump of the system's memory."""

    def __init__(self) -> None:
        """Create the target.

        :raises NoTargetError: if there is none.
        :raises UnsupportedError: if the structures of its processor are not known, or the dump is a small one.
        """
        super().__init__()
        if self.platform.arch == "aarch64":
            raise UnsupportedError(f"{self._name} {MACHINE_REFUSAL.format(_MACHINE_ARM64)}")
        if self._is_dump and int(pykd.getDumpType()) == int(pykd.dumpType.KernelSmall):
            raise UnsupportedError(f"{self._name} {TRIAGE_REFUSAL}")

    @property
    def capabilities(self) -> Capability:
        """Return KERNEL; in a session also LIVE, and RUNNING if the kernel debugs itself."""
        if self._is_dump:
            return Capability.KERNEL
        local = Capability.RUNNING if pykd.isLocalKernelDebuggerEnabled() else Capability.NONE
        return Capability.KERNEL | Capability.LIVE | local

    @property
    def description(self) -> str:
        """Describe the target."""
        return f"kernel dump {self._where}".rstrip() if self._is_dump else "kernel"

    def threads(self) -> Sequence[Thread]:
        """Return no threads: the engine's numbers are processors'."""
        return ()

    def registers(self, thread: Thread, names: Sequence[str] = ()) -> Mapping[str, int]:
        """Return no registers: there are no threads."""
        return {}

    @property
    def kernel(self) -> Module:
        """Return the kernel's own image.

        :raises UnsupportedError: if the engine has not found it.
        """
        try:
            image = pykd.module("nt")
        except pykd.DbgException as error:
            raise UnsupportedError("the engine has not found the kernel: try .reload /f nt") from error
        base = int(image.begin()) & self.platform.address_mask
        return Module(str(image.image()), base, rsds(Memory(self), base))

    @property
    def size(self) -> Optional[int]:
        """Return None: pykd does not expose the size."""
        return None

    @property
    def build_number(self) -> Optional[int]:
        """Return the build."""
        try:
            return int(pykd.getSystemVersion().buildNumber) or None
        except pykd.DbgException:
            return None  # which is: not known

    @property
    def current_process(self) -> Optional[int]:
        """Return the ``_EPROCESS`` of the user's implicit process."""
        try:
            return int(pykd.getImplicitProcess()) & self.platform.address_mask or None
        except pykd.DbgException:
            return None  # who needs one asks for its id

    def find_symbol(self, name: str) -> Optional[int]:
        """Find a global of the kernel in its PDB, without one in its exports and the dump's header."""
        try:
            return int(pykd.module("nt").offset(name)) & self.platform.address_mask
        except pykd.DbgException:
            pass  # the dump's header follows, and without that the caller reports it
        text = pykd.dbgCommand(".dumpdebug") or "" if self._is_dump else ""
        found = re.search(rf"^{re.escape(name)} +([0-9a-f`]+)\s*$", text, re.MULTILINE)
        return int(found[1].replace("`", ""), 16) & self.platform.address_mask if found else None

    def read_physical(self, address: int, size: int) -> bytes:
        """Read physical memory."""
        return self._load(address, size, True)

    def address_space(self, process: int, directory_table_base: int) -> AddressSpace:
        """Return the memory of a process; the user's implicit process is restored."""
        return _ProcessSpace(self, process)


class _ProcessSpace:
    """The memory of one process of a machine, which is made the implicit process for each request."""

    def __init__(self, target: MachineTarget, process: int) -> None:
        self._target = target
        self._process = _extended(target.platform, process)

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory."""
        try:
            before = pykd.getImplicitProcess()
            pykd.setImplicitProcess(self._process)
        except pykd.DbgException as error:
            raise FaultError(address, size, "the engine cannot switch to the process") from error
        try:
            return self._target.read(address, size)
        finally:
            pykd.setImplicitProcess(before)


def _extended(platform: Platform, address: int) -> int:
    """Extend the sign of a 32-bit address, as the engine does."""
    return address | ~platform.address_mask & (1 << 64) - 1 if platform.pointer_size == 4 and address >> 31 else address


def current_target() -> Union[ProcessTarget, MachineTarget]:
    """Return the target that the engine examines now.

    :raises NoTargetError: if there is none.
    :raises UnsupportedError: if its processor is not supported.
    """
    try:
        is_machine = pykd.isKernelDebugging()
    except pykd.DbgException as error:
        raise NoTargetError("no target: open a dump, start a program or attach to a process first") from error
    return MachineTarget() if is_machine else ProcessTarget()


if TYPE_CHECKING:
    from ..common.target import KernelTarget
    from ..common.windows.target import WindowsTarget

    _process_conforms: type[WindowsTarget] = ProcessTarget
    _machine_conforms: type[KernelTarget] = MachineTarget
