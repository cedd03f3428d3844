"""How are a target's bytes, threads and layouts obtained from gdb?  gdb 10 to 18."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, Optional

import gdb

from ..common.charset import decode
from ..common.errors import FaultError, NoTargetError, UnsupportedError
from ..common.files import open_first
from ..common.linux.auxv import AT_PHDR
from ..common.linux.dumps.elfcore import ElfCore
from ..common.linux.dumps.mappings import open_module
from ..common.linux.dumps.procfs import program_of, thread_name
from ..common.model import Field, Layout, Module, Platform, Problem, Thread
from ..common.target import THREAD_POINTER, Capability
from .charset import output_of, text_of

# gdb's name of the architecture: GNU name, pointer size, and the registers with the thread pointer, as a native gdb
# names them, then as qemu 7.2 does (its gdb-xml); a pair has 32 bits each, the upper ones first.
_ARCHITECTURES: Mapping[str, tuple[str, int, Sequence[tuple[str, ...]]]] = {
    "i386:x86-64": ("x86_64", 8, [("fs_base",)]),
    "i386": ("i386", 4, []),
    "aarch64": ("aarch64", 8, [("tpidr",), ("TPIDR_EL0",)]),
    "arm": ("arm", 4, [("TPIDRURO",)]),
    "powerpc:common64": ("ppc64le", 8, [("r13",)]),
    "s390:64-bit": ("s390x", 8, [("acr0", "acr1")]),
    "riscv:rv64": ("riscv64", 8, [("tp",)]),
    "Loongarch64": ("loongarch64", 8, [("tp",)]),
}

# THREAD_SELF of sysdeps/*/nptl/tls.h; elsewhere the thread pointer is behind struct pthread.
_POINTER_IS_HANDLE = frozenset({"x86_64", "i386", "s390x"})

_MAX_NESTED_STRUCTS = 3


class GdbTarget:
    """The selected inferior of gdb."""

    def __init__(self, inferior: gdb.Inferior) -> None:
        """Create the target of an inferior.

        :raises NoTargetError: if it has neither a process nor a core.
        """
        if not inferior.is_valid() or inferior.pid == 0:
            raise NoTargetError("no process and no core: use run, attach, target remote or core-file first")
        self._inferior = inferior
        self._threads: Mapping[int, gdb.InferiorThread] = {}
        name = inferior.architecture().name()
        family = name if name in _ARCHITECTURES else re.split(r"v\d|_any", name)[0]
        if family not in _ARCHITECTURES:
            raise UnsupportedError(f"the architecture {name} is not supported")
        self._arch, pointer_size, self._tp_registers = _ARCHITECTURES[family]
        self._platform = Platform(self._arch, pointer_size, "big" if "big endian" in _ask("show endian") else "little")
        self.kind = _kind(inferior)
        self._core_path = _core_path() if self.kind == "core" else None
        self._core = ElfCore(self._core_path, self.open_image) if self._core_path else None
        if self._core is not None and not self._core.files:
            from ..common.linux.dumps.unlisted import map_unlisted_files

            map_unlisted_files(self, self._core, _program())

    @property
    def platform(self) -> Platform:
        """Return the architecture."""
        return self._platform

    @property
    def capabilities(self) -> Capability:
        """Return LIVE for a process, which gdb has stopped, and NONE for a core."""
        return Capability.NONE if self.kind == "core" else Capability.LIVE

    @property
    def pid(self) -> Optional[int]:
        """Return the process id."""
        return int(self._inferior.pid)

    @property
    def description(self) -> str:
        """Describe the target."""
        if self._core_path:
            return f"core file {self._core_path}"
        return f"process {self._inferior.pid}"

    def problems(self) -> Sequence[Problem]:
        """Return a problem if the core is truncated."""
        return self._core.problems() if self._core else ()

    def read(self, address: int, size: int) -> bytes:
        """Read memory, of a core from its file: gdb up to 13 reads zeros for memory that it lacks."""
        if self._core is not None:
            return self._core.read(address, size)
        try:
            return bytes(self._inferior.read_memory(address, size))
        except (gdb.error, OverflowError) as error:
            raise FaultError(address, size) from error

    def auxv(self) -> Mapping[int, int]:
        """Return the auxiliary vector."""
        if self._core is not None:
            return self._core.auxv
        try:
            text = _ask("info auxv")
        except gdb.error:
            return {}
        # A line is "3    AT_PHDR  Program headers for program  0x555555554040"; AT_EXECFN's ends with a string.
        pattern = r'^(\d+)\s+(?:AT_\w+|\?\?\?)\s+.*?(0x[0-9a-f]+|\d+)(?:\s+".*")?$'
        return {int(m[1]): int(m[2], 0) for m in re.finditer(pattern, text, re.MULTILINE)}

    def modules(self) -> Sequence[Module]:
        """Return the main program: as named by the core, else by gdb's file and address."""
        if self._core is not None:
            mapped = self._core.file_at(self._core.auxv.get(AT_PHDR, 0))
            if mapped is not None:
                return (Module(mapped.path, mapped.start),)
        entry = self.auxv().get(AT_PHDR)
        program = _program()
        # gdb 16 opens this if the program is in another mount namespace, or was deleted.
        if program == f"/proc/{self.pid}/exe" and self.kind == "live":
            program = program_of(int(self._inferior.pid)) or program
        return (Module(program, entry & ~0xFFF),) if program and entry else ()

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Find a structure in the debug information of the file with the module's build-id."""
        for objfile in gdb.objfiles():
            if module.build_id is None or objfile.build_id != module.build_id:
                continue
            symbol = objfile.lookup_static_symbol(type_name, gdb.SYMBOL_STRUCT_DOMAIN)
            if symbol is not None and symbol.type is not None:
                fields = dict(_fields(symbol.type, self.platform.byteorder))
                if fields:
                    return Layout(type_name, int(symbol.type.sizeof), fields)
        return None

    def threads(self) -> Sequence[Thread]:
        """List the threads in gdb's order.

        For a core from another PID namespace gdb 16 adds the threads that libthread_db finds, by their ids there: they
        are the same threads again, without registers.
        """
        self._threads = {t.num: t for t in self._inferior.threads() if t.is_valid()}
        lwps = self._core.lwps() if self._core is not None else ()
        if lwps:
            self._threads = {num: t for num, t in self._threads.items() if (t.ptid[1] or t.ptid[2]) in lwps}
        return [Thread(num, t.ptid[1] or t.ptid[2], self._name(t)) for num, t in sorted(self._threads.items())]

    def _name(self, thread: gdb.InferiorThread) -> Optional[str]:
        """Return a thread's name; on this machine the kernel's, which is bytes."""
        if self.kind == "live":
            return thread_name(int(self._inferior.pid), thread.ptid[1] or thread.ptid[2])
        try:
            return thread.name
        except UnicodeDecodeError as error:
            return decode(bytes(error.object))

    def registers(self, thread: Thread, names: Sequence[str] = (THREAD_POINTER,)) -> Mapping[str, int]:
        """Read registers; the user's selected thread and frame stay selected."""
        found = self._threads.get(thread.number)
        if found is None or not found.is_valid():
            return {}
        values = {}
        pointer = (self._handle(found) or self._thread_pointer(found)) if THREAD_POINTER in names else None
        if pointer is not None:
            values[THREAD_POINTER] = pointer
        others = [name for name in names if name != THREAD_POINTER]
        if others:
            with SelectionKept():
                try:
                    found.switch()
                    frame = gdb.newest_frame()
                    values.update((name, _joined(frame, (name,))) for name in others)
                except (gdb.error, ValueError):
                    pass  # a running thread of non-stop mode has no registers: they are left out, which means unknown
        return values

    def _handle(self, thread: gdb.InferiorThread) -> Optional[int]:
        """Ask libthread_db, which needs no registers, for the pthread_t where this is the thread pointer."""
        if self._arch not in _POINTER_IS_HANDLE:
            return None
        try:
            return int.from_bytes(thread.handle(), self.platform.byteorder)  # type: ignore[arg-type,unused-ignore]
        except (gdb.error, RuntimeError, NotImplementedError):
            return None

    def _thread_pointer(self, thread: gdb.InferiorThread) -> Optional[int]:
        for names in self._tp_registers:
            with SelectionKept():
                try:
                    thread.switch()
                    return _joined(gdb.newest_frame(), names)
                except (gdb.error, ValueError):
                    continue  # a running thread of non-stop mode has no registers
        return None

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open a module's file: below the sysroot, else as the target names it, else where gdb has found it.

        For a core's program that is not there, the one that the user has named.
        """
        path = self._core.path_of(module) if self._core else module.path
        sysroot = text_of(lambda: gdb.parameter("sysroot"))  # type: ignore[arg-type,return-value,unused-ignore]
        if sysroot and not sysroot.startswith("target:"):
            stream = open_first([path], sysroot)
        elif self.kind == "live":
            stream = open_module(int(self._inferior.pid), module)
        else:
            stream = open_first([path], "/")
        stream = stream or open_first(self._files_with(module.build_id))
        if stream is None and self._core and path in [program.path for program in self.modules()]:
            return open_first([_program()])
        return stream

    @staticmethod
    def _files_with(build_id: Optional[str]) -> Iterator[str]:
        for objfile in gdb.objfiles():
            if build_id and objfile.is_valid() and objfile.build_id == build_id:
                path = _file_of(objfile)
                if path:
                    yield path


def _program() -> str:
    """Return the path of gdb's program, empty if gdb has none."""
    space = gdb.current_progspace()
    path = (text_of(lambda: space.filename) if space else None) or ""
    return path[len("target:") :] if path.startswith("target:") else path


def _file_of(objfile: gdb.Objfile) -> Optional[str]:
    return text_of(lambda: objfile.filename)


def _joined(frame: gdb.Frame, names: Sequence[str]) -> int:
    value = 0
    for name in names:
        value = value << 32 | int(frame.read_register(name)) & (1 << 64 // len(names)) - 1
    return value


class SelectionKept:
    """A context that restores the selected thread and frame."""

    def __enter__(self) -> None:
        self._thread = gdb.selected_thread()
        self._frame: Optional[gdb.Frame]
        try:
            self._frame = gdb.selected_frame()
        except gdb.error:
            self._frame = None

    def __exit__(self, *_: object) -> None:
        if self._thread is not None and self._thread.is_valid():
            self._thread.switch()
            if self._frame is not None and self._frame.is_valid():
                self._frame.select()


def _ask(command: str) -> str:
    """Run a command; return its text.  Through MI, gdb 18 returns MI stream records, ``~"text"``."""
    text = output_of(command)
    if not text.startswith('~"'):
        return text
    return "".join(_unquote(record) for record in re.findall(r'^~"(.*)"$', text, re.MULTILINE))


def _unquote(text: str) -> str:
    """Undo the quoting of an MI string, in which bytes beyond ASCII are octal."""

    def plain(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 8) & 0xFF]) if len(code) == 3 else {b"n": b"\n", b"t": b"\t"}.get(code, code)

    return decode(re.sub(rb"\\([0-7]{3}|.)", plain, text.encode("utf-8", "surrogateescape")))


def _kind(inferior: gdb.Inferior) -> str:
    """Return what an inferior runs on; gdb 10 has no connection object, but prints its target stack."""
    connection = getattr(inferior, "connection", None)
    name = connection.type if connection is not None else ""
    if connection is None:
        stack = _ask("maintenance print target-stack")
        name = next((word for word in ("core", "remote") if f"- {word}" in stack or f"-{word}" in stack), "native")
    if name == "core":
        return "core"
    return "remote" if "remote" in name else "live"


def _core_path() -> Optional[str]:
    """Find the core's path; only gdb 18 has an object for it."""
    match = re.search(r"^Local core dump file:\s+`(.*)', file type", _ask("info files"), re.M)
    return match[1] if match else None


def _fields(
    kind: gdb.Type, byteorder: str, prefix: str = "", base: int = 0, depth: int = 0
) -> Iterator[tuple[str, Field]]:
    """Flatten the members of a structure: ``outer.inner``, and anonymous members without a prefix."""
    for member in kind.fields():
        if getattr(member, "bitpos", None) is None or member.type is None:
            continue  # static members and enumerators
        position = int(member.bitpos or 0)
        plain = member.type.strip_typedefs()
        offset = base + position // 8
        name = prefix + (member.name or "")
        if member.bitsize:
            bit = position % 8
            shift = bit if byteorder == "little" else 8 - bit - member.bitsize
            yield name, Field(offset, 1, shift, member.bitsize)
            continue
        if member.name:
            yield name, Field(offset, plain.sizeof)
        if plain.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION) and depth < _MAX_NESTED_STRUCTS:
            yield from _fields(plain, byteorder, f"{name}." if member.name else prefix, offset, depth + 1)


def selected_target() -> GdbTarget:
    """Return the selected inferior as a target.

    :raises NoTargetError: if there is nothing to examine.
    """
    return GdbTarget(gdb.selected_inferior())


if TYPE_CHECKING:
    from ..common.target import Target

    _conforms: type[Target] = GdbTarget
