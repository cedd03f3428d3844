"""How are a target's bytes, threads and layouts had from LLDB?  LLDB 14 and 19."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Optional

import lldb

from ..common.dumps.auxv import parse_auxv
from ..common.dumps.elfcore import ET_CORE, ElfCore
from ..common.elf.files import open_first
from ..common.errors import FaultError, NoTargetError, UnsupportedError
from ..common.model import Field, Layout, Module, Platform, Problem, Thread
from ..common.target import Capability

# First part of LLDB's triple: GNU name, register with the thread pointer.
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


class LldbTarget:
    """A target of LLDB with a process or core."""

    def __init__(self, target: Any) -> None:
        """Take an ``SBTarget``.

        :raises NoTargetError: if it has neither a process nor a core.
        :raises UnsupportedError: if its architecture is not known.
        """
        self._target = target
        self._process = target.GetProcess()
        if not self._process.IsValid() or self._process.GetState() not in (
            lldb.eStateStopped,
            lldb.eStateCrashed,
            lldb.eStateSuspended,
        ):
            raise NoTargetError("no stopped process and no core: use run, attach, or target create --core first")
        name = target.GetTriple().split("-")[0]
        if name not in _ARCHITECTURES:
            raise UnsupportedError(f"the architecture {name} is not supported")
        arch, self._tp_register = _ARCHITECTURES[name]
        byteorder = "big" if target.GetByteOrder() == lldb.eByteOrderBig else "little"
        self.platform = Platform(arch, target.GetAddressByteSize(), byteorder)
        self._is_core = "core" in (self._process.GetPluginName() or "")
        self._is_local = target.GetPlatform().GetName() == "host"
        path = _core_path(self._process) if self._is_core else None
        self._core = ElfCore(path, self.open_image) if path else None

    @property
    def capabilities(self) -> Capability:
        """Tell a process, which LLDB has stopped, from a core."""
        return Capability.NONE if self._is_core else Capability.LIVE

    @property
    def kind(self) -> str:
        """Name what the target is."""
        if self._is_core:
            return "core"
        return "live" if self._is_local else "remote"

    @property
    def pid(self) -> Optional[int]:
        """Give the process id."""
        return int(self._process.GetProcessID())

    @property
    def description(self) -> str:
        """Describe the target."""
        return f"core file {self._core.path}" if self._core else f"process {self.pid}"

    def problems(self) -> Sequence[Problem]:
        """Tell whether the core is cut off."""
        return self._core.problems() if self._core else ()

    def read(self, address: int, size: int) -> bytes:
        """Read memory; of a core from its file, which also knows the files that it maps."""
        if self._core is not None:
            return self._core.read(address, size)
        error = lldb.SBError()
        data = self._process.ReadMemory(address, size, error) if size else b""
        if data is None or len(data) < size:
            raise FaultError(address, size)
        return bytes(data)

    def auxv(self) -> Mapping[int, int]:
        """Give the auxiliary vector: LLDB's API has none, so from the core or this machine's /proc."""
        if self._core is not None:
            return self._core.auxv
        if self._is_core or not self._is_local:
            return {}
        try:
            with open(f"/proc/{self.pid}/auxv", "rb") as stream:
                return parse_auxv(stream.read(), self.platform.pointer_size, self.platform.byteorder)
        except OSError:
            return {}

    def modules(self) -> Sequence[Module]:
        """Give the main program."""
        module = self._target.GetModuleAtIndex(0)
        base = module.GetObjectFileHeaderAddress().GetLoadAddress(self._target)
        if not module.IsValid() or base == lldb.LLDB_INVALID_ADDRESS:
            return ()
        return (Module(str(module.GetFileSpec()), base),)

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Find a structure in the debug information of the module with that build-id."""
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
        """List the threads in LLDB's order."""
        return [Thread(t.GetIndexID(), t.GetThreadID(), t.GetName() or None) for t in self._sb_threads()]

    def _sb_threads(self) -> Iterator[Any]:
        for index in range(self._process.GetNumThreads()):
            yield self._process.GetThreadAtIndex(index)

    def registers(self, thread: Thread) -> Mapping[str, int]:
        """Read the thread pointer; LLDB 14 has no register for it on x86-64."""
        if self._tp_register is None:
            return {}
        for candidate in self._sb_threads():
            if candidate.GetThreadID() == thread.lwp:
                value = candidate.GetFrameAtIndex(0).FindRegister(self._tp_register)
                if value.IsValid():
                    return {"thread_pointer": int(value.GetValueAsUnsigned())}
        return {}

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open a module's file: in the process's own mount namespace, as it is named, or where LLDB found it."""
        candidates = []
        if not self._is_core and self._is_local:
            candidates.append(f"/proc/{self.pid}/root{module.path}")
        candidates.append(module.path)
        candidates += [str(m.GetFileSpec()) for m in self._modules_with(module.build_id)]
        return open_first(candidates)


def _core_path(process: Any) -> Optional[str]:
    """Find the core's path; LLDB 14 does not tell it, but has the file mapped."""
    if hasattr(process, "GetCoreFile"):
        path = str(process.GetCoreFile())
        return path if os.path.exists(path) else None
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as stream:
            paths = {line.split(None, 5)[5].rstrip("\n") for line in stream if line.count(" ") >= 5 and "/" in line}
    except OSError:
        return None
    cores = [path for path in sorted(paths) if _is_core_file(path)]
    return cores[0] if len(cores) == 1 else None


def _is_core_file(path: str) -> bool:
    try:
        with open(path, "rb") as stream:
            header = stream.read(18)
    except OSError:
        return False
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
            yield name, Field(base + position // 8, 1, shift, count)
            continue
        offset = base + position // 8
        if member.GetName():
            yield name, Field(offset, int(plain.GetByteSize()))
        if plain.GetTypeClass() in (lldb.eTypeClassStruct, lldb.eTypeClassUnion) and depth < _MAX_NESTED_STRUCTS:
            yield from _fields(plain, byteorder, f"{name}." if member.GetName() else prefix, offset, depth + 1)


if TYPE_CHECKING:
    from ..common.target import Target

    _conforms: type[Target] = LldbTarget
