"""What does a process under glibc do while it is traced, thread by thread, as the test says?

A `Script` has a synthetic process and a small loader of its own, which changes that process's memory as glibc's does:
it adds maps, counts, marks, runs destructors, unmaps, and takes the lock meanwhile.  A thread comes to the breakpoints
on its way with the arguments in its registers, and its return addresses on its stack.

Sources: elf/dl-open.c, elf/dl-close.c (``_dl_close_worker``), elf/dl-fini.c of glibc 2.40.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Optional

from dlwhy.common.linux.trace.events import Event, Stop, Trace
from dlwhy.common.linux.trace.stops import TraceOptions
from dlwhy.common.linux.trace.tracer import Tracer, begin
from dlwhy.common.target import Reaction
from dlwhy.tests.fakes import X86_64, FakeTarget
from dlwhy.tests.support.live import Arrival, Breakpoints
from dlwhy.tests.synth.glibc import DATA, RTLD_GLOBAL_RO, SLOTS, Layout, Library, Process
from dlwhy.tests.synth.glibc_layouts import V240_LIVE

MAIN = 4711
RTLD_NOW, RTLD_NOLOAD, RTLD_NODELETE = 2, 4, 0x1000
#: What dlopen adds to the caller's flags: __RTLD_DLOPEN.
RTLD_DLOPEN = 0x8000_0000
NEW_NAMESPACE, CALLERS_NAMESPACE = -1, -2
AT_RANDOM, AT_EXECFN = 25, 31

STACKS, STACK_SIZE, STACK_DISTANCE = 0x7FFD_0000_0000, 0x4000, 0x10_0000
STRINGS, STRINGS_SIZE = 0x6000_0000_0000, 0x4000
RANDOM = STRINGS + STRINGS_SIZE
#: How far a destructor's frame is below that of the close which runs it.
DESTRUCTOR_DEPTH = 0x80
#: Callee-saved registers, of which no frame here makes use.
SAVED = ("rbx", "rbp", "r12", "r13", "r14", "r15")
ARGUMENTS = ("rdi", "rsi", "rdx", "rcx")

#: Exported functions, with the bytes that each one's frame has besides its return address.
LIBC_FUNCTIONS = {
    "dlopen": 0x18,
    "dlmopen": 0x18,
    "dlclose": 0x28,
    "do_dlopen": 0x28,
    "do_dlclose": 0,
    "iconv_open": 0x48,
    "iconv_close": 0x18,
    "__cxa_thread_atexit_impl": 0x18,
    "open": 0x18,
    "socket": 0,
    "_exit": 0,
}
RTLD_FUNCTIONS = {"_dl_catch_error": 0x38, "_dl_open": 0x58, "_dl_close": 0x28}
#: By which ld.so raises errors: until 2.36 libc's, of which ld.so has its own for the time before.
RAISERS = {"_dl_signal_error": 0x48, "_dl_signal_exception": 0x18}
#: Behind its load of _rtld_global_ro's address stands libc's own call.
INNER_CALL = 7
#: So far behind its start a function goes on when what it called returns.
AFTER_CALL = 8

#: A library of the first namespace, and one of its functions.
Place = tuple[str, str]
DLCLOSE, ICONV_OPEN, ICONV_CLOSE = ("libc.so.6", "dlclose"), ("libc.so.6", "iconv_open"), ("libc.so.6", "iconv_close")
INNER_OPEN, INNER_CLOSE = ("libc.so.6", "do_dlopen"), ("libc.so.6", "do_dlclose")
#: Code that some compiler has made at run time, in no library.
NOWHERE, NOWHERE_ADDRESS = ("", "code"), 0x1234_0000
DL_OPEN, DL_CLOSE, CATCH_ERROR = ("ld.so", "_dl_open"), ("ld.so", "_dl_close"), ("ld.so", "_dl_catch_error")
#: What a constructor or destructor does.
Work = Callable[["Thread"], object]


class Way(IntEnum):
    """Where a trace sees opens and closes: at exported functions, in ld.so, or there where they have the lock."""

    EXPORTED = 0
    IN_RTLD = 1
    LOCKED = 2


class LiveGlibc(Breakpoints, FakeTarget):
    """The process as a debugger shows it."""

    def __init__(self, process: Process, *, keeps_breakpoints: bool) -> None:
        Breakpoints.__init__(self)
        FakeTarget.__init__(
            self,
            {},
            process.platform,
            auxv={**process.auxv(), AT_RANDOM: RANDOM, AT_EXECFN: STRINGS},
            threads={MAIN: process.tls},
        )
        self.kind = "remote"
        self.keeps_breakpoints = keeps_breakpoints
        self.stacks: dict[int, Optional[int]] = {}
        self.strings = bytearray(STRINGS_SIZE)
        self.random = b"as random as any"
        self.stack_memory: dict[int, bytearray] = {}
        self._used = 0
        #: What the other threads do while a hit is handled: called before each look at the process.
        self.meanwhile: Callable[[], None] = lambda: None
        self.string(b"/opt/app/main")
        self.update(process)

    def update(self, process: Process) -> None:
        """Take over what the process's memory is now."""
        self.replace(
            {
                **process.segments(),
                **{at: bytes(data) for at, data in self.stack_memory.items()},
                STRINGS: bytes(self.strings),
                RANDOM: self.random.ljust(0x1000, b"\0"),
            }
        )

    def read(self, address: int, size: int) -> bytes:
        """Read bytes as they are by now."""
        self.meanwhile()
        return super().read(address, size)

    def stack_pointer(self, lwp: int) -> Optional[int]:
        """Read the stack pointer of a thread that stands."""
        self.meanwhile()
        return self.stacks.get(lwp)

    def string(self, text: bytes) -> int:
        """Put a string somewhere."""
        at = self._used
        self.strings[at : at + len(text) + 1] = text + b"\0"
        self._used += len(text) + 1
        return STRINGS + at


class Call:
    """A call of the loader that a thread has come to; `end` lets it do its work and return."""

    def __init__(self, thread: Thread, work: Callable[[], int]) -> None:
        self.thread = thread
        self.reaction = Reaction.RESUME
        self._before = thread.sp
        self._work = work

    def end(self) -> int:
        """Do the work, return; gives the result."""
        result = self._work()
        self.leave()
        return result

    def leave(self) -> None:
        """Return, or leave by longjmp, whatever was done."""
        self.thread.move_to(self._before)


class Thread:
    """A thread; ``at`` is the function that it executes."""

    def __init__(self, script: Script, lwp: int) -> None:
        self.script = script
        self.lwp = lwp
        self._start = STACKS + STACK_DISTANCE * len(script.threads)
        script.target.stack_memory[self._start] = bytearray(STACK_SIZE)
        self.at: Place = ("main", "main")
        self.namespace = 0
        #: The answer to its latest taking of the lock.
        self.reaction = Reaction.RESUME
        self.move_to(self._start + STACK_SIZE - 0x100)

    def move_to(self, stack: int) -> None:
        """Set the stack pointer."""
        self.sp = stack
        self.script.target.stacks[self.lwp] = stack

    def call(self, caller: Place, *, has_frame: bool = True) -> None:
        """Execute the call instruction of a function; without a frame as long as that is not counted."""
        if has_frame:
            library, name = self.script.function(caller)
            self.move_to(self.sp - library.functions[name])
        self.move_to(self.sp - 8)
        place = self.sp - self._start
        returns_to = self.script.address(caller) + AFTER_CALL
        self.script.target.stack_memory[self._start][place : place + 8] = returns_to.to_bytes(8, "little")

    def clobber(self) -> None:
        """Use the stack below for something else."""
        data = self.script.target.stack_memory[self._start]
        data[: self.sp - self._start] = b"\x55" * (self.sp - self._start)

    def arrive(self, address: int, *arguments: int, **registers: int) -> Reaction:
        """Come to a place with these arguments; the process is as it is then."""
        mask = (1 << 64) - 1
        values = dict.fromkeys((*SAVED, *ARGUMENTS), 0)
        values.update(zip(ARGUMENTS, (argument & mask for argument in arguments)))
        values.update(rsp=self.sp)
        values.update(registers)
        self.script.refresh()
        return self.script.target.arrive(Arrival(address, self.lwp, values))

    @contextmanager
    def within(self, place: Place, depth: int = DESTRUCTOR_DEPTH) -> Iterator[Thread]:
        """Execute another function, deeper in the stack."""
        before, at = self.sp, self.at
        self.move_to(before - depth)
        self.at = place
        yield self
        self.at = at
        self.move_to(before)

    @contextmanager
    def called(self, place: Place) -> Iterator[Thread]:
        """Call another function, and execute it until it returns."""
        before, at = self.sp, self.at
        self.call(at, has_frame=False)
        library, name = self.script.function(place)
        self.move_to(self.sp - library.functions[name])
        self.at = place
        yield self
        self.at = at
        self.move_to(before)

    def variable(self, text: bytes) -> int:
        """Put a string into the frame of the function that is executed, at its end; gives its address."""
        place = self.sp - self._start
        self.script.target.stack_memory[self._start][place : place + len(text) + 1] = text + b"\0"
        return self.sp

    # -- opens and closes --------------------------------------------------------------------------------------

    def begin_open(
        self,
        name: Optional[str],
        flags: int = RTLD_NOW,
        *,
        named_at: Optional[int] = None,
        namespace: Optional[int] = None,
        by_libc: bool = False,
        work: Optional[Callable[[], int]] = None,
    ) -> Call:
        """Come to dlopen or dlmopen, or let libc open something.

        :param named_at: where the name is, if it is somewhere already.
        :param work: what it does instead.
        """
        script = self.script
        text = named_at
        if text is None:
            text = 0 if name is None else script.target.string(name.encode())
        number = CALLERS_NAMESPACE if namespace is None else namespace
        chosen = self.namespace if number == CALLERS_NAMESPACE else number
        call = Call(self, work or (lambda: script.open(self, name, flags, chosen)))
        caller = script.address(self.at) + AFTER_CALL
        self.call(self.at, has_frame=False)
        reactions = []
        if by_libc:
            self.call(ICONV_OPEN)
            caller = script.address(INNER_OPEN) + AFTER_CALL
            with self.within(self.at, LIBC_FUNCTIONS["do_dlopen"]):
                place = script.address(INNER_OPEN) + INNER_CALL
                reactions.append(self.arrive(place, text, flags | RTLD_DLOPEN, caller, number))
            self.call(INNER_OPEN)
        else:
            exported = ("libc.so.6", "dlopen" if namespace is None else "dlmopen")
            given = (text, flags) if namespace is None else (namespace, text, flags)
            reactions.append(self.arrive(script.address(exported), *given))
            self.call(exported)
        reactions.append(self.arrive(script.address(DL_OPEN), text, flags | RTLD_DLOPEN, caller, number))
        call.reaction = Reaction.STOP if Reaction.STOP in reactions else Reaction.RESUME
        return call

    def dlopen(self, name: Optional[str], flags: int = RTLD_NOW, **more: Any) -> int:
        """Open a library; gives the handle, 0 if it fails."""
        return self.begin_open(name, flags, **more).end()

    def begin_close(self, handle: int, *, by_libc: bool = False, work: Optional[Callable[[], int]] = None) -> Call:
        """Come to dlclose, or let libc close something; ``work`` is what it does instead."""
        script = self.script
        call = Call(self, work or (lambda: script.close(self, handle)))
        self.call(self.at, has_frame=False)
        if by_libc:
            self.call(ICONV_CLOSE)
            # It ends in a jump, so _dl_close returns to its caller.
            reactions = [self.arrive(script.address(INNER_CLOSE) + INNER_CALL, handle)]
        else:
            reactions = [self.arrive(script.address(DLCLOSE), handle)]
            self.call(DLCLOSE)
            self.call(CATCH_ERROR)
        reactions.append(self.arrive(script.address(DL_CLOSE), handle))
        call.reaction = Reaction.STOP if Reaction.STOP in reactions else Reaction.RESUME
        return call

    def dlclose(self, handle: int, **more: Any) -> int:
        """Close a handle; gives 0, or -1 if it is none."""
        return self.begin_close(handle, **more).end()

    # -- other calls -------------------------------------------------------------------------------------------

    def call_libc(self, name: str, *arguments: int) -> Reaction:
        """Call a function of libc that does nothing to the loader's lists."""
        call = Call(self, lambda: 0)
        self.call(self.at, has_frame=False)
        reaction = self.arrive(self.script.address(("libc.so.6", name)), *arguments)
        call.end()
        return reaction

    def register_destructor(self, function: int, subject: int, library: Library) -> None:
        """Register a destructor of a thread-local object, which keeps a library."""
        self.call_libc("__cxa_thread_atexit_impl", function, subject, self.script.process.base(library) + 0x2000)
        library.owed += 1

    def exit(self) -> None:
        """End the process: its finalisers run, then _exit."""
        script = self.script
        script.library("main").init_called = False
        for library in script.process.libraries:
            library.opencount += 1
        for library in [each for each in script.process.libraries if each.name in script.destructors]:
            with self.within((library.name, next(iter(library.functions)))):
                script.destructors[library.name](self)
        self.call_libc("_exit", 0)
        script.end("the process ended")


class Script:
    """A process under glibc; what its threads do, its trace tells in ``events`` and ``stops``.

    ``constructors`` and ``destructors`` are what libraries do when they come and go, by name.
    """

    def __init__(
        self,
        *known: Library,
        started: Sequence[Library] = (),
        in_rtld: int = Way.IN_RTLD,
        version: tuple[int, int] = (2, 40),
        layout: Layout = V240_LIVE,
    ) -> None:
        """Start a process that can load ``known`` libraries, and has loaded ``started`` ones with the program.

        :param in_rtld: a `Way`; unless it is EXPORTED the debugger keeps breakpoints in ld.so.
        """
        main = Library("main", type=0, init_called=True, functions={"main": 0x18, "worker": 0x18})
        self.raiser = "libc.so.6" if version < (2, 37) else "ld.so"
        of_libc = {**LIBC_FUNCTIONS, **(RAISERS if version < (2, 37) else {})}
        libc = Library("libc.so.6", type=1, tls_size=0x90, functions=of_libc)
        rtld = Library("ld.so", type=1, functions={**RTLD_FUNCTIONS, **RAISERS})
        #: A namespace of its own has its own libc, and ld.so's entry.
        rtld_there = Library("ld.so", functions=RTLD_FUNCTIONS)
        libc_there = Library("libc.so.6", needs=["ld.so"], tls_size=0x90, functions=LIBC_FUNCTIONS)
        self.known = {library.name: library for library in (libc_there, rtld_there, *known)}
        self.process = Process(
            X86_64,
            layout,
            [main, libc, rtld, *started],
            rtld_global_size=4352,
            version=version,
            exports_descriptors=True,
            mangles=True,
        )
        self._write_inner_calls(libc)
        self._has_locks = in_rtld == Way.LOCKED
        if self._has_locks:
            self._write_lock_calls(rtld)
        self.target = LiveGlibc(self.process, keeps_breakpoints=in_rtld != Way.EXPORTED)
        self.constructors: dict[str, Work] = {}
        self.destructors: dict[str, Work] = {}
        self.threads: dict[int, Thread] = {}
        self.events: list[Event] = []
        self.stops: list[Stop] = []
        self._depths: dict[int, int] = {}
        self._pending: set[int] = set()
        self.main = self.thread(MAIN)

    def _write_inner_calls(self, libc: Library) -> None:
        """Let libc's own functions load the address of _rtld_global_ro and call what it points to."""
        process = self.process
        slot = process.base(libc) + SLOTS
        libc.data = {SLOTS: (process.base(self.library("ld.so")) + RTLD_GLOBAL_RO).to_bytes(8, "little")}
        code = {}
        for name, offset, opcode in zip(("do_dlopen", "do_dlclose"), process.layout.open_close or (), (0x90, 0xA0)):
            distance = slot - (process.base(libc) + libc.function(name) + INNER_CALL)
            load, call = b"\x48\x8b\x05" + distance.to_bytes(4, "little"), bytes([0xFF, opcode])
            code[name] = load + call + offset.to_bytes(4, "little")
        libc.code = code

    def _write_lock_calls(self, rtld: Library) -> None:
        """Let ld.so's functions keep their first argument in rbx and call what takes the lock."""
        process = self.process
        member = process.layout.load_lock or 0
        lock = process.base(rtld) + DATA + member
        code = {}
        for name in ("_dl_open", "_dl_close"):
            start = b"\x48\x89\xfb"
            distance = lock - (process.base(rtld) + rtld.function(name) + len(start) + 7)
            load = b"\x48\x8d\x3d" + distance.to_bytes(4, "little", signed=True)
            code[name] = start + load + b"\xe8" + bytes(4)
        rtld.code = code

    def take_lock(self, thread: Thread, place: Place, argument: int) -> None:
        """Let a thread come to where it has just taken the lock."""
        if self._has_locks:
            library, name = self.function(place)
            address = self.address(place) + len(library.code[name])
            thread.reaction = thread.arrive(address, rbx=argument, rsp=thread.sp - library.functions[name])

    def begin(self, *libraries: str, **options: Any) -> Tracer:
        """Begin a trace."""
        self.refresh()
        chosen = TraceOptions(libraries, **options)
        self.tracer = begin(self.target, chosen, self.events.append, self.stops.append)
        assert ("lock" in self.tracer.report().closes_by) is self._has_locks
        return self.tracer

    def report(self) -> Trace:
        """Ask for the report."""
        self.refresh()
        return self.tracer.report()

    def thread(self, lwp: int) -> Thread:
        """Return a thread, which is new if its number is."""
        if lwp not in self.threads:
            self.threads[lwp] = Thread(self, lwp)
            self.threads[lwp].at = ("main", "main" if lwp == MAIN else "worker")
        return self.threads[lwp]

    def library(self, name: str, namespace: int = 0) -> Library:
        """Find a library that is loaded."""
        return self.process.library(name, namespace)

    def handle(self, name: str, namespace: int = 0) -> int:
        """Return the address of a library's map."""
        return self.process.map_of(name, namespace)

    def loaded(self, namespace: int = 0) -> list[str]:
        """Name the libraries of a namespace."""
        return [each.name for each in self.process.namespace(namespace)]

    def function(self, place: Place) -> tuple[Library, str]:
        """Find a function."""
        return self.library(place[0]), place[1]

    def address(self, place: Place) -> int:
        """Return the address of a function."""
        if place == NOWHERE:
            return NOWHERE_ADDRESS
        library, name = self.function(place)
        return self.process.base(library) + library.function(name)

    def refresh(self) -> None:
        """Let the target show the process as it is now."""
        self.target.update(self.process)

    def end(self, why: str) -> None:
        """End the process."""
        self.refresh()
        self.target.alive = False
        self.target.tell_end(why)

    def execute(self) -> None:
        """Let the process execute the same program once more."""
        self.target.random = b"quite another 16"
        self.refresh()

    # -- the loader --------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self, thread: Thread) -> Iterator[None]:
        """Hold _dl_load_lock."""
        owner, depth = self.process.lock
        assert owner in (0, thread.lwp), f"thread {thread.lwp} would wait for thread {owner}"
        self.process.lock = (thread.lwp, depth + 1)
        yield
        self.process.lock = (thread.lwp, depth) if depth else (0, 0)

    def open(self, thread: Thread, name: Optional[str], flags: int, namespace: int) -> int:
        """Open as _dl_open does; gives the map's address, 0 if nothing of that name is known."""
        with self.locked(thread):
            self.take_lock(thread, DL_OPEN, 0)
            if name is None:
                self.library("main").opencount += 1
                return self.handle("main")
            name = name.rpartition("/")[2]
            if namespace == NEW_NAMESPACE:
                namespace = self.process.last_namespace = self.process.last_namespace + 1
            new: list[Library] = []
            library = self._map(name, namespace, new)
            if library is None:
                self.raise_error(thread, name, "cannot open shared object file", code=2)
                return 0
            library.opencount += 1
            library.nodelete = library.nodelete or bool(flags & RTLD_NODELETE) or library.elf_nodelete
            for each in reversed(new):
                each.init_called = True
                if each.name in self.constructors:
                    with thread.within((each.name, next(iter(each.functions)))):
                        self.constructors[each.name](thread)
            return self.process.maps[library.key]

    def raise_error(self, thread: Thread, name: str, text: str, *, code: int = 0, again: bool = True) -> None:
        """Raise an error as ld.so does; what catches it on the way raises it once more."""
        subject, message = (self.target.string(each.encode(errors="surrogateescape")) for each in (name, text))
        with thread.within(thread.at):
            # The upper half of an int's register is whatever it was before.
            error, exception = (self.address((self.raiser, each)) for each in RAISERS)
            thread.arrive(error, 0xABCD << 32 | code, subject, 0, message)
            if again:
                block = self.target.string(subject.to_bytes(8, "little") + message.to_bytes(8, "little"))
                thread.arrive(exception, code, block, 0)

    def _map(self, name: str, namespace: int, new: list[Library]) -> Optional[Library]:
        """Load a library and what it needs, breadth first, unless it is there."""
        there = {each.name: each for each in self.process.namespace(namespace)}
        if name in there:
            return there[name]
        if name not in self.known:
            return None
        queue = [name]
        for each in queue:
            if each not in there:
                new.append(copy.copy(self.known[each]))
                queue += [needed for needed in new[-1].needs if needed not in queue]
        for library in new:
            library.namespace = namespace
            library.is_proxy = library.name == "ld.so"
            self.process.place(library)
            library.serial = self.process.load_adds
            self.process.load_adds += 1
        self.process.libraries += new
        return new[0]

    def close(self, thread: Thread, handle: int) -> int:
        """Close as _dl_close does; gives -1 for what is not open."""
        library = next((each for each in self.process.libraries if self.process.maps[each.key] == handle), None)
        with self.locked(thread):
            self.take_lock(thread, DL_CLOSE, handle)
            if library is None or (library.opencount == 0 and not library.nodelete):
                return -1
            if library.nodelete:
                return 0
            library.opencount -= 1
            if library.opencount or library.type != 2:
                return 0
            if library.namespace in self._pending:
                self._pending.add(~library.namespace)  # it has to collect once more
                return 0
            self._collect(thread, library.namespace)
        return 0

    def _collect(self, thread: Thread, namespace: int) -> None:
        """Collect as _dl_close_worker does."""
        self._pending.add(namespace)
        while True:
            kept = self._mark(namespace)
            maps = self.process.namespace(namespace)
            for index, each in enumerate(maps):
                each.map_used = each.key in kept
                each.idx = -1 if each.map_used else index
            condemned = [each for each in maps if not each.map_used]
            for each in condemned:
                if each.name in self.destructors and each.init_called:
                    with thread.within((each.name, next(iter(each.functions)))):
                        self.destructors[each.name](thread)
                each.removed = True
            for each in condemned:
                self.process.libraries.remove(each)
                each.idx = -1
            if ~namespace not in self._pending:
                break
            self._pending.discard(~namespace)
        self._pending.discard(namespace)

    def _mark(self, namespace: int) -> set[str]:
        """Mark what is kept: roots, and what they need or are bound to."""
        maps = {each.name: each for each in self.process.namespace(namespace)}
        queue = [each for each in maps.values() if each.opencount or each.type != 2 or each.nodelete or each.owed]
        kept = {each.key for each in queue}
        for library in queue:
            for name in (*library.needs, *library.bound_to):
                if maps[name].key not in kept:
                    kept.add(maps[name].key)
                    queue.append(maps[name])
        return kept


if TYPE_CHECKING:
    from dlwhy.common.target import LiveLinuxTarget

    _conforms: type[LiveLinuxTarget] = LiveGlibc
