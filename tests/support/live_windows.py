"""What does a process of Windows do while it is traced, thread by thread, as the test says?

A `Script` has a synthetic process whose loader is that of `synth.minidump`.  Threads come to ntdll's exports with the
arguments in their registers and to the return addresses of those calls; modules come and go with the debugger's events;
DllMains are called at their entry points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Optional

from dlwhy.common.model import Platform
from dlwhy.common.model import Thread as ModelThread
from dlwhy.common.target import Capability, Subscription
from dlwhy.common.windows.model import ListedImage, SystemVersion, UnloadedImage
from dlwhy.common.windows.target import RaisedException, StackFrame
from dlwhy.common.windows.trace.events import DllEvent, DllTrace
from dlwhy.common.windows.trace.tracer import DllTracer
from dlwhy.tests.fakes import FakeTarget
from dlwhy.tests.support.live import Arrival, Breakpoints, Removal
from dlwhy.tests.synth.minidump import EXE, KERNEL32, NTDLL, PINNED, WIN10, Form, Loader, Module, Process

MAIN = 0x5BC
STACKS, STACK_SIZE, STACK_DISTANCE = 0x7000_0000, 0x4000, 0x10_0000
STRINGS = 0x7FF0_0000
OUTPUT = STRINGS + 0x3000
WORD = 8

SUCCESS, NOT_FOUND, DLL_NOT_LOADED = 0, 0xC0000135, 0xC0000135
LOAD, UNLOAD, ADD_REF, GET_HANDLE = "LdrLoadDll", "LdrUnloadDll", "LdrAddRefDll", "LdrGetDllHandleEx"
EXPORTS = (LOAD, UNLOAD, ADD_REF, GET_HANDLE, "LdrShutdownProcess", "NtTerminateProcess")
#: How far behind the start of an image functions lie that call, and DllMain.
CALLER, DLL_MAIN = 0x1200, 0x1000
DETACH, ATTACH = 0, 1
#: The handle of the own process.
CURRENT_PROCESS = (1 << 64) - 1
#: What a function of kernelbase or an DllMain has on the stack.
FRAME = 0x40

Work = Callable[["Thread"], object]


class LiveWindows(Breakpoints, FakeTarget):
    """The process as the engine shows it."""

    keeps_breakpoints = True

    def __init__(self, loader: Loader) -> None:
        Breakpoints.__init__(self)
        bits = 8 if loader.wide else 4
        platform = Platform("x86_64" if loader.wide else "i386", bits, "little", "windows")
        FakeTarget.__init__(self, {}, platform, capabilities=Capability.LIVE)
        self.kind = "live"
        self.loader = loader
        self.system = SystemVersion(*loader.form.version)
        self.stack_memory: dict[int, bytearray] = {}
        self.strings = bytearray(0x4000)
        self.modules_changed: list[Callable[[int, str, bool], None]] = []
        self.thread: Optional[Thread] = None
        self.ran = 0
        self._used = 0
        self._peb = 0
        self.update()

    def update(self) -> None:
        """Take over what the process's memory is now."""
        process = Process(self.loader, keeps_places=True)
        self._peb = process.peb
        self.replace(
            {
                **{at: bytes(piece) for at, piece in process.memory.pieces},
                **{at: bytes(data) for at, data in self.stack_memory.items()},
                STRINGS: bytes(self.strings),
            }
        )

    def peb(self) -> Optional[int]:
        """Return the address of the PEB."""
        return self._peb

    def images(self) -> Sequence[ListedImage]:
        """List the modules."""
        return [ListedImage(f"{m.folder}\\{m.name}", m.base, m.size, m.timestamp) for m in self.loader.loaded]

    @property
    def images_complete(self) -> bool:
        """Say that all are listed."""
        return True

    def thread_starts(self) -> Mapping[int, int]:
        """Know none."""
        return {}

    def memory_ranges(self) -> Optional[Sequence[tuple[int, int]]]:
        """Know none."""
        return None

    def unloaded_images(self) -> Sequence[UnloadedImage]:
        """List none."""
        return ()

    def stack(self, thread: ModelThread) -> Optional[tuple[int, int]]:
        """Know no bounds."""
        return None

    def exception(self) -> Optional[RaisedException]:
        """Have none."""
        return None

    def on_module_change(self, callback: Callable[[int, str, bool], None]) -> Subscription:
        """Listen to modules that come and go."""
        self.modules_changed.append(callback)
        return Removal(lambda: self.modules_changed.remove(callback))

    def current_lwp(self) -> int:
        """Return the thread of the last event."""
        assert self.thread is not None
        return self.thread.lwp

    def frames(self, most: int) -> Sequence[StackFrame]:
        """Unwind that thread, as far as it can be unwound."""
        assert self.thread is not None
        return self.thread.frames[::-1][: min(most, self.thread.unwinds)]

    def find_symbol(self, address: int) -> Optional[str]:
        """Name a function by its module."""
        for module in self.loader.loaded:
            if module.base <= address < module.base + module.size:
                return f"{module.name.partition('.')[0]}!code"
        return None

    def run(self) -> None:
        """Count that the process was let run."""
        self.ran += 1

    def tell_module(self, module: Module, *, is_loaded: bool) -> None:
        """Tell that a module has been mapped, or is being unmapped."""
        for callback in self.modules_changed[:]:
            callback(module.base, module.name.partition(".")[0], is_loaded)

    def text(self, value: Optional[str]) -> int:
        """Put a UNICODE_STRING somewhere."""
        if value is None:
            return 0x10
        data = value.encode("utf-16-le")
        at = self._used
        self._used += 16 + (len(data) + 15) // 16 * 16
        head = len(data).to_bytes(2, "little") * 2 + bytes(4) + (STRINGS + at + 16).to_bytes(8, "little")
        self.strings[at : at + 16 + len(data)] = head + data
        return STRINGS + at


class Call:
    """A call of ntdll that a thread has come to; `end` lets it do its work and return."""

    def __init__(self, thread: Thread, function: str, work: Callable[[], int], outer: list[StackFrame]) -> None:
        self.thread = thread
        self._work = work
        self._outer = outer
        self._returns_to = thread.frames[-2]

    def end(self) -> int:
        """Do the work, return; gives the NTSTATUS."""
        status = self._work()
        thread = self.thread
        thread.frames.pop()
        thread.come(self._returns_to.pc, rax=status)
        self.leave()
        return status

    def leave(self) -> None:
        """Leave it, as by an exception."""
        self.thread.frames[:] = self._outer


class Thread:
    """A thread of the process."""

    def __init__(self, script: Script, lwp: int) -> None:
        self.script = script
        self.lwp = lwp
        self._start = STACKS + STACK_DISTANCE * len(script.threads)
        script.target.stack_memory[self._start] = bytearray(STACK_SIZE)
        program = script.loader.loaded[0]
        #: The outermost first.
        self.frames = [StackFrame(program.base + CALLER, self._start + STACK_SIZE - 0x100)]
        #: Whether functions of ntdll are called by way of kernel32.
        self.is_by_kernel32 = True
        #: So many frames the engine can unwind.
        self.unwinds = 1000

    def push(self, place: int) -> None:
        """Call a function: its return address is where the caller is."""
        caller = self.frames[-1]
        stack = caller.sp - WORD
        at = stack - self._start
        self.script.target.stack_memory[self._start][at : at + WORD] = caller.pc.to_bytes(WORD, "little")
        self.frames.append(StackFrame(place, stack))

    def come(self, address: int, **registers: int) -> None:
        """Come to a place with these registers; the process is as it is then."""
        names = ("rcx", "rdx", "r8", "r9", "rax")
        values = {**dict.fromkeys(names, 0), "rsp": self.frames[-1].sp, **registers}
        self.script.target.thread = self
        self.script.target.update()
        self.script.target.arrive(Arrival(address, self.lwp, values))

    @contextmanager
    def within(self, name: str, offset: int = CALLER) -> Iterator[Thread]:
        """Execute a function of a module, deeper in the stack."""
        before = self.frames[:]
        place = self.script.loader.known[name.lower()].base + offset
        self.frames.append(StackFrame(place, self.frames[-1].sp - FRAME))
        yield self
        self.frames[:] = before

    def begin(self, function: str, work: Callable[[], int], **registers: int) -> Call:
        """Call one of ntdll's functions."""
        script, outer = self.script, self.frames[:]
        if self.is_by_kernel32:
            kernel = script.loader.known[KERNEL32.lower()].base + CALLER
            self.frames.append(StackFrame(kernel, self.frames[-1].sp - FRAME))
        self.push(script.export(function))
        self.come(script.export(function), **registers)
        return Call(self, function, work, outer)

    # -- calls -------------------------------------------------------------------------------------------------

    def begin_load(self, name: Optional[str], *, flags: int = 0, work: Optional[Callable[[], int]] = None) -> Call:
        """Come to LdrLoadDll; ``work`` is what it does instead."""
        target = self.script.target
        arguments = {"rdx": flags, "r8": target.text(name), "r9": OUTPUT}
        return self.begin(LOAD, work or (lambda: self.script.load(self, name or "")), **arguments)

    def load(self, name: Optional[str], *, flags: int = 0) -> int:
        """Load a DLL; gives the NTSTATUS."""
        return self.begin_load(name, flags=flags).end()

    def begin_free(self, base: int, *, work: Optional[Callable[[], int]] = None) -> Call:
        """Come to LdrUnloadDll; ``work`` is what it does instead."""
        return self.begin(UNLOAD, work or (lambda: self.script.free(self, base)), rcx=base)

    def free(self, name: str) -> int:
        """Free a DLL; gives the NTSTATUS."""
        return self.begin_free(self.script.base(name)).end()

    def add_ref(self, name: str, flags: int = 0) -> int:
        """Call LdrAddRefDll; flag 1 pins."""
        base = self.script.base(name)
        return self.begin(ADD_REF, lambda: self.script.count(name, bool(flags & 1)), rcx=flags, rdx=base).end()

    def get_handle(self, name: str, flags: int = 0, *, by_add_ref: bool = True) -> int:
        """Call LdrGetDllHandleEx, which may have LdrAddRefDll count; flag 1 leaves the count, 2 pins."""

        def work() -> int:
            if all(each.name != name for each in self.script.loader.loaded):
                return NOT_FOUND
            if not flags & 1 and not by_add_ref:
                self.script.count(name, bool(flags & 2))
            elif not flags & 1:
                inner = self.begin(
                    ADD_REF,
                    lambda: self.script.count(name, bool(flags & 2)),
                    rcx=flags >> 1 & 1,
                    rdx=self.script.base(name),
                )
                inner.end()
            self.script.write_output(self.script.base(name))
            return SUCCESS

        # The fifth argument lies behind the return address and the home of four; it is written before the call.
        home = self.frames[-1].sp - FRAME - WORD + 0x28
        at = home - self._start
        self.script.target.stack_memory[self._start][at : at + WORD] = OUTPUT.to_bytes(WORD, "little")
        text = self.script.target.text(name)
        return self.begin(GET_HANDLE, work, rcx=flags, r9=text).end()

    def call_main(self, module: Module, reason: int) -> None:
        """Let the loader call a DllMain; what that does is the script's."""
        with self.within(NTDLL):
            self.push(module.base + DLL_MAIN)
            self.come(module.base + DLL_MAIN, rdx=reason)
            work = (self.script.attaching if reason == ATTACH else self.script.detaching).get(module.name)
            if work is not None:
                with self.within(module.name):
                    work(self)

    def shut_down(self) -> None:
        """End the process as ExitProcess does."""
        script = self.script
        script.loader.shutdown = True

        def work() -> int:
            for module in script.loader.loaded[::-1]:
                if module.name in script.detaching:
                    self.call_main(module, DETACH)
            return SUCCESS

        self.begin("LdrShutdownProcess", work).end()

    def terminate(self, process: int = CURRENT_PROCESS) -> None:
        """Call NtTerminateProcess."""
        self.begin("NtTerminateProcess", lambda: SUCCESS, rcx=process).leave()


class Script:
    """A process of Windows; what its threads do, its trace tells in ``events``.

    ``attaching`` and ``detaching`` are what DllMains do, by name.
    """

    def __init__(self, *known: Module, form: Form = WIN10, imports: Sequence[str] = (), wide: bool = True) -> None:
        """Start a process that can load ``known`` DLLs, and whose program imports some."""
        self.loader = Loader(form, wide)
        self.loader.lock_owner = 0
        exports = dict.fromkeys(EXPORTS, b"\xc3")
        self.loader.define(Module(NTDLL, folder="C:\\Windows\\System32", exports=exports), *known)
        self.loader.start(Module(EXE, [*imports, KERNEL32]))
        self.target = LiveWindows(self.loader)
        self.attaching: dict[str, Work] = {}
        self.detaching: dict[str, Work] = {}
        self.threads: dict[int, Thread] = {}
        self.events: list[DllEvent] = []
        self._condemned: Optional[list[Module]] = None
        self.main = self.thread(MAIN)
        self.target.thread = self.main

    def begin(self, *names: str) -> DllTracer:
        """Begin a trace."""
        self.target.update()
        self.tracer = DllTracer(self.target, names, self.events.append)
        return self.tracer

    def report(self) -> DllTrace:
        """Ask for the report."""
        self.target.update()
        return self.tracer.report()

    def thread(self, lwp: int) -> Thread:
        """Return a thread, which is new if its number is."""
        if lwp not in self.threads:
            self.threads[lwp] = Thread(self, lwp)
        return self.threads[lwp]

    def export(self, name: str) -> int:
        """Return the address of a function of ntdll: exports lie one behind the other by name."""
        exports = sorted(self.loader.known[NTDLL].exports)
        return self.loader.known[NTDLL].base + 0x1000 + 0x40 * exports.index(name)

    def base(self, name: str) -> int:
        """Return a module's base."""
        return self.loader.known[name.lower()].base

    def loaded(self) -> list[str]:
        """Name what is loaded besides the program, ntdll and kernel32."""
        return [module.name for module in self.loader.loaded if module.name not in (EXE, NTDLL, KERNEL32)]

    def write_output(self, value: int) -> None:
        """Write where a function's result is expected."""
        at = OUTPUT - STRINGS
        self.target.strings[at : at + WORD] = value.to_bytes(WORD, "little")

    def load(self, thread: Thread, name: str) -> int:
        """Load as LdrLoadDll does."""
        name = name.rpartition("\\")[2]
        if name.lower() not in self.loader.known:
            return NOT_FOUND
        before = list(self.loader.loaded)
        module = self.loader.load(name)
        new = [each for each in self.loader.loaded if each not in before]
        # The engine hears of a module when it is mapped, before the loader lists it.
        self.target.thread = thread
        for each in new:
            self.target.tell_module(each, is_loaded=True)
        for each in [each for each in self.loader.initialized if each in new]:
            if each.name in self.attaching:
                thread.call_main(each, ATTACH)
        self.write_output(module.base)
        return SUCCESS

    def free(self, thread: Thread, base: int) -> int:
        """Free as LdrUnloadDll does: up to Windows 7 what dies within another free goes with that one."""
        module = next((each for each in self.loader.loaded if each.base == base), None)
        if module is None:
            return DLL_NOT_LOADED
        going = self.loader.free(module.name)
        is_at_once = self.loader.form.graph and not self.loader.form.wine
        if not is_at_once:
            going.sort(key=self.loader.initialized.index, reverse=True)
        if self._condemned is not None and not is_at_once:
            self._condemned += going
            return SUCCESS
        self._condemned = going
        self.loader.lock_owner = thread.lwp
        for each in going:
            thread.call_main(each, DETACH)
        for each in going:
            self.target.thread = thread
            self.target.tell_module(each, is_loaded=False)
            self.loader.drop(each)
        self._condemned, self.loader.lock_owner = None, 0
        return SUCCESS

    def count(self, name: str, pins: bool) -> int:
        """Count as LdrAddRefDll does."""
        if pins:
            self.loader.pin(name)
        elif self.loader.known[name.lower()].count not in (PINNED, 0xFFFF):
            self.loader.load(name)
        return SUCCESS

    def end(self, why: str) -> None:
        """End the process."""
        self.target.alive = False
        self.target.tell_end(why)


if TYPE_CHECKING:
    from dlwhy.common.windows.target import LiveWindowsTarget

    _conforms: type[LiveWindowsTarget] = LiveWindows
