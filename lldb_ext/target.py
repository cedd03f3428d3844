"""How are a target's bytes, threads and layouts obtained from LLDB?  LLDB 14 and 19."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Optional, Protocol

import lldb

from ..common.charset import decode
from ..common.errors import DlwhyError, FaultError, LayoutError, NoTargetError, UnsupportedError
from ..common.files import open_first, open_regular
from ..common.linux.auxv import parse_auxv
from ..common.linux.dumps.coretarget import CoreTarget
from ..common.linux.dumps.elfcore import ET_CORE, ElfCore
from ..common.linux.dumps.mappings import open_module
from ..common.linux.dumps.procfs import find_inner_id, read_exactly, thread_name
from ..common.linux.layouts.tables import load_table
from ..common.model import Field, Layout, Module, Platform, Problem, Thread
from ..common.target import THREAD_POINTER, Capability, Target

# First part of LLDB's triple: GNU name, register with the thread pointer (None: none).
_ARCHITECTURES = {
    "x86_64": ("x86_64", "fs_base"),
    "i386": ("i386", None),
    "i686": ("i386", None),
    "aarch64": ("aarch64", "tpidr"),
    "arm": ("arm", None),
    "armv7": ("arm", None),
    "powerpc64le": ("ppc64le", "r13"),
    "s390x": ("s390x", None),
    "riscv64": ("riscv64", "tp"),
    "loongarch64": ("loongarch64", "tp"),
}

_MAX_NESTED_STRUCTS = 3


#: Plug-ins of LLDB whose process is a file.
_POST_MORTEM = ("elf-core", "mach-o-core", "minidump", "trace")

# How much of a core in LLDB is compared with a file that could be that core.
_STACK_BYTES = 1024
_PAGE_BYTES = 4096
_SAMPLE_BYTES = 4096
_MAX_SAMPLED_REGIONS = 4096


class LldbTarget:
    """A target of LLDB with a process or core."""

    def __init__(self, target: Any) -> None:
        """Create the target of an ``SBTarget``.

        :raises NoTargetError: if it has neither a stopped process nor a core.
        :raises UnsupportedError: if its architecture is not known.
        """
        self._target = target
        self._process = target.GetProcess()
        _require_stopped(self._process)
        name = target.GetTriple().split("-")[0]
        if name not in _ARCHITECTURES:
            raise UnsupportedError(f"the architecture {name} is not supported")
        arch, self._tp_register = _ARCHITECTURES[name]
        byteorder = "big" if target.GetByteOrder() == lldb.eByteOrderBig else "little"
        self.platform = Platform(arch, target.GetAddressByteSize(), byteorder)
        self._is_core = self._process.GetPluginName() in _POST_MORTEM
        self._is_local = not self._is_core and _is_traced_here(self.pid)
        self._memory = _open_memory(self.pid) if self._is_local else None
        path = _find_file(self._process, _open_core, _is_core) if self._process.GetPluginName() == "elf-core" else None
        self._core = _Core(path, self._files_with, str(target.GetExecutable() or "")) if path else None
        # Since LLDB 16 ^C sets a flag that must be polled.
        self._is_interrupted = getattr(target.GetDebugger(), "InterruptRequested", bool)

    @property
    def capabilities(self) -> Capability:
        """Return LIVE for a process, which LLDB has stopped, and NONE for a core."""
        return Capability.NONE if self._is_core else Capability.LIVE

    @property
    def kind(self) -> str:
        """Return ``live``, ``core`` or ``remote``."""
        if self._is_core:
            return "core"
        return "live" if self._is_local else "remote"

    @property
    def pid(self) -> int:
        """Return the process id."""
        return int(self._process.GetProcessID())

    @property
    def description(self) -> str:
        """Describe the target."""
        return self._core.description if self._core else f"process {self.pid}"

    def problems(self) -> Sequence[Problem]:
        """Return a problem if the core is truncated."""
        return self._core.problems() if self._core else ()

    def read(self, address: int, size: int) -> bytes:
        """Read memory; of a core from its file and the files that it maps.

        Of a process from the kernel, if it permits: 16 KiB take 5 us, and 180 us through LLDB's server.

        :raises KeyboardInterrupt: after ^C.
        """
        if self._core is not None:
            return self._core.read(address, size)
        if self._is_interrupted():
            raise KeyboardInterrupt
        if self._memory is not None:
            with suppress(FaultError):
                return read_exactly(self._memory.fileno(), address, size)
        return _read(self._process, address, size)

    def auxv(self) -> Mapping[int, int]:
        """Return the auxiliary vector, from the core or this machine's /proc: LLDB's API has none."""
        if self._core is not None:
            return self._core.auxv()
        if not self._is_local:
            return {}
        try:
            with open(f"/proc/{self.pid}/auxv", "rb") as stream:
                return parse_auxv(stream.read(), self.platform.pointer_size, self.platform.byteorder)
        except OSError:
            return {}

    def modules(self) -> Sequence[Module]:
        """Return the main program."""
        if self._core is not None:
            return self._core.modules()
        module = self._target.GetModuleAtIndex(0)
        base = module.GetObjectFileHeaderAddress().GetLoadAddress(self._target)
        if not module.IsValid() or base == lldb.LLDB_INVALID_ADDRESS:
            return ()
        return (Module(str(module.GetFileSpec()), base),)

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Find a structure in the debug information of the module with that build-id.

        LLDB is not asked about a build in the table of layouts: since 17 or so it writes an error for each array in a
        union.
        """
        if _is_in_table(self.platform.arch, module.build_id):
            return None
        for candidate in self._modules_with(module.build_id):
            found = candidate.FindTypes(type_name)
            types = [found.GetTypeAtIndex(i) for i in range(found.GetSize())]
            largest = max(types, key=lambda t: int(t.GetByteSize()), default=None)
            if largest is not None and largest.GetByteSize():
                fields = dict(_fields(largest, self.platform.byteorder))
                return Layout(type_name, int(largest.GetByteSize()), fields)
        return None

    def _modules_with(self, build_id: Optional[str]) -> Iterator[Any]:
        if build_id is None:
            return
        for index in range(self._target.GetNumModules()):
            module = self._target.GetModuleAtIndex(index)
            if (module.GetUUIDString() or "").replace("-", "").lower() == build_id:
                yield module

    def threads(self) -> Sequence[Thread]:
        """List the threads in LLDB's order; LLDB names a core's threads after the program."""
        if self._core is not None:
            return self._core.threads()
        if not self._is_local:
            return [Thread(t.GetIndexID(), t.GetThreadID(), t.GetName() or None) for t in _threads(self._process)]
        # The kernel's names, which are bytes: LLDB's server replaces bytes that are not UTF-8.
        pid, found = self.pid, [(t.GetIndexID(), t.GetThreadID()) for t in _threads(self._process)]
        return [Thread(number, lwp, thread_name(pid, lwp), find_inner_id(pid, lwp)) for number, lwp in found]

    def registers(self, thread: Thread, names: Sequence[str] = (THREAD_POINTER,)) -> Mapping[str, int]:
        """Read registers; LLDB 14 has none for the thread pointer on x86-64."""
        if self._core is not None:
            return self._core.registers(thread, names)
        found = self._process.GetThreadByID(thread.lwp)
        frame: Any = found.GetFrameAtIndex(0)
        values = {}
        for name in names if found.IsValid() else ():
            own = self._tp_register if name == THREAD_POINTER else name
            value = frame.FindRegister(own) if own else None
            if value is not None and value.IsValid():
                values[name] = int(value.GetValueAsUnsigned())
        return values

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open a module's file: as the process names it, else where LLDB has found it."""
        stream = open_module(self.pid, module) if self._is_local else open_first([module.path], "/")
        return stream or open_first(self._files_with(module.build_id))

    def _files_with(self, build_id: Optional[str]) -> Iterator[str]:
        return (str(module.GetFileSpec()) for module in self._modules_with(build_id))


class _Core(CoreTarget):
    """A core that LLDB has open, with files also from where LLDB found them."""

    def __init__(self, path: str, files_with: Callable[[Optional[str]], Iterator[str]], executable: str) -> None:
        self._files_with = files_with
        self._named_program = executable
        super().__init__(path)

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open a module's file."""
        stream = super().open_image(module) or open_first(self._files_with(module.build_id))
        is_program = module.path in [program.path for program in self.modules()]
        return stream or (open_first([self._named_program]) if is_program else None)


def selected_target(debugger: Any) -> Target:
    """Return the target that is selected in an ``SBDebugger``.

    :raises NoTargetError: if there is nothing to examine.
    """
    target = debugger.GetSelectedTarget()
    if not target.IsValid():
        raise NoTargetError("no target: use target create, attach, or target create --core first")
    return open_target(target)


def open_target(target: Any) -> Target:
    """Open an ``SBTarget``; a minidump by its file: LLDB's API has neither TEBs, unloaded modules, nor all streams.

    :raises NoTargetError: if it has neither a stopped process nor a core.
    :raises UnsupportedError: if its architecture is not supported, or LLDB does not say which minidump it has open.
    """
    process = target.GetProcess()
    if process.IsValid() and process.GetPluginName() == "minidump":
        from ..common.minidumps import SIGNATURE, MinidumpFile  # no other target needs it

        path = _find_file(process, MinidumpFile, lambda start: start.startswith(SIGNATURE))
        if path is None:
            raise UnsupportedError("LLDB does not tell which file it has open: ask as dlwhy --dump FILE in the shell")
        return _open_minidump(path, is_of_windows="windows" in target.GetTriple())
    return LldbTarget(target)


def _open_minidump(path: str, is_of_windows: bool) -> Target:
    if not is_of_windows:
        from ..common.linux.dumps.minidump import LinuxMinidump

        return LinuxMinidump(path)
    from ..common.windows.dumps.minidump import MinidumpTarget

    return MinidumpTarget(path)


def _require_stopped(process: Any) -> None:
    state = process.GetState() if process.IsValid() else lldb.eStateInvalid
    if state in (lldb.eStateRunning, lldb.eStateStepping):
        raise NoTargetError("the process is running: use process interrupt first")
    if state not in (lldb.eStateStopped, lldb.eStateCrashed, lldb.eStateSuspended):
        raise NoTargetError("no process and no core: use run, process attach or target create --core first")


def _threads(process: Any) -> Iterator[Any]:
    for index in range(process.GetNumThreads()):
        yield process.GetThreadAtIndex(index)


def _read(process: Any, address: int, size: int) -> bytes:
    error = lldb.SBError()
    data = process.ReadMemory(address, size, error) if size else b""
    if data is None or len(data) < size:
        raise FaultError(address, size)
    return bytes(data)


def _open_memory(pid: int) -> Optional[io.FileIO]:
    try:
        return open(f"/proc/{pid}/mem", "rb", buffering=0)
    except OSError:
        return None


def _is_traced_here(pid: int) -> bool:
    """Return True if this LLDB's lldb-server traces the process on this machine.

    LLDB's platform is "host" for a gdbserver's or an emulator's processes too.
    """
    tracer = _status_number(pid, "TracerPid")
    return tracer not in (None, 0) and os.getpid() in (tracer, _status_number(tracer or 0, "PPid"))


def _status_number(pid: int, key: str) -> Optional[int]:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as stream:
            return next((int(line.split()[1]) for line in stream if line.startswith(f"{key}:")), None)
    except (OSError, ValueError, IndexError):
        return None


class _Dump(Protocol):
    """A core or minidump file."""

    def read(self, address: int, size: int) -> bytes:
        """Read memory."""

    def close(self) -> None:
        """Close the file."""


def _open_core(path: str) -> _Dump:
    return ElfCore(path, _no_image)


def _find_file(process: Any, open_dump: Callable[[str], _Dump], is_one: Callable[[bytes], bool]) -> Optional[str]:
    """Find the path of a core; LLDB 14 does not say, but maps the file, and files of former targets."""
    if hasattr(process, "GetCoreFile"):
        paths = [str(process.GetCoreFile())]
    else:
        paths = [path for path in _mapped_files() if is_one(_first_bytes(path))]
    found = [path for path in paths if _agree(process, path, open_dump, list(_stacks(process)))]
    if len(found) > 1:
        found = [path for path in found if _agree(process, path, open_dump, list(_regions(process)))]
    return found[0] if found else None


def _stacks(process: Any) -> Iterator[tuple[int, int]]:
    for thread in _threads(process):
        pointer = thread.GetFrameAtIndex(0).GetSP()
        if pointer:
            # LLDB reads no further than one range of a minidump, and ranges end at page boundaries.
            yield pointer, min(_STACK_BYTES, _PAGE_BYTES - pointer % _PAGE_BYTES)


def _regions(process: Any) -> Iterator[tuple[int, int]]:
    """Yield two samples (address, size) of each region, in which two cores of one process differ."""
    regions = process.GetMemoryRegions()
    info = lldb.SBMemoryRegionInfo()
    for index in range(min(regions.GetSize(), _MAX_SAMPLED_REGIONS)):
        if regions.GetMemoryRegionAtIndex(index, info):
            start, size = info.GetRegionBase(), info.GetRegionEnd() - info.GetRegionBase()
            yield start, min(size, _SAMPLE_BYTES)
            yield start + size // 2, min(size - size // 2, _SAMPLE_BYTES)


def _agree(process: Any, path: str, open_dump: Callable[[str], _Dump], samples: Sequence[tuple[int, int]]) -> bool:
    """Return True if a core file holds what LLDB reads, and lacks what LLDB cannot read."""
    try:
        core = open_dump(path)
    except DlwhyError:
        return False  # not the file that LLDB has open; the caller tries the next one
    try:
        return all(_or_none(core.read, *s) == _or_none(lambda a, n: _read(process, a, n), *s) for s in samples)
    finally:
        core.close()


def _is_in_table(arch: str, build_id: Optional[str]) -> bool:
    try:
        return any(build.ld_build_id == build_id for build in load_table(arch).builds)
    except LayoutError:
        return False  # no table for this architecture: LLDB is asked


def _no_image(_: Module) -> Optional[BinaryIO]:
    return None


def _or_none(read: Callable[[int, int], bytes], address: int, size: int) -> Optional[bytes]:
    try:
        return read(address, size)
    except FaultError:
        return None  # compared with what the other reader makes of the same place


def _mapped_files() -> list[str]:
    """List the files that this process maps, LLDB's own included."""
    try:
        with open("/proc/self/maps", "rb") as stream:
            words = [decode(line).rstrip("\n").split(None, 5) for line in stream]
    except OSError:
        return []
    return sorted({word[5].replace("\\012", "\n") for word in words if len(word) == 6 and word[5].startswith("/")})


def _first_bytes(path: str) -> bytes:
    try:
        with open_regular(path) as stream:
            return stream.read(18)
    except (OSError, ValueError):
        return b""


def _is_core(header: bytes) -> bool:
    return header[:4] == b"\x7fELF" and len(header) == 18 and ET_CORE in (header[16], header[17])


def _fields(kind: Any, byteorder: str, prefix: str = "", base: int = 0, depth: int = 0) -> Iterator[tuple[str, Field]]:
    """Flatten the members of a structure: ``outer.inner``, and anonymous members without a prefix."""
    for index in range(kind.GetNumberOfFields()):
        member = kind.GetFieldAtIndex(index)
        position = int(member.GetOffsetInBits())
        name = prefix + (member.GetName() or "")
        plain = member.GetType().GetCanonicalType()
        if member.IsBitfield():
            count = int(member.GetBitfieldSizeInBits())
            shift = position % 8 if byteorder == "little" else 8 - position % 8 - count
            if member.GetName():  # unnamed ones are padding, which LLDB makes up: DWARF does not list it
                yield name, Field(base + position // 8, 1, shift, count)
            continue
        offset = base + position // 8
        if member.GetName():
            yield name, Field(offset, int(plain.GetByteSize()))
        if plain.GetTypeClass() in (lldb.eTypeClassStruct, lldb.eTypeClassUnion) and depth < _MAX_NESTED_STRUCTS:
            yield from _fields(plain, byteorder, f"{name}." if member.GetName() else prefix, offset, depth + 1)


if TYPE_CHECKING:
    _conforms: type[Target] = LldbTarget
