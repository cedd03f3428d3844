"""What must a debugger, core file or process provide, so that everything else can be computed?

An adapter provides bytes, names and offsets, never values: all decoding is done above it, in the same way for every
debugger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, Flag
from typing import BinaryIO, Optional, Protocol

from .model import Layout, Module, Platform, Problem, Thread

#: The name that stands for the register with the thread pointer.
THREAD_POINTER = "thread_pointer"


class Capability(Flag):
    """A property or ability of a target, beyond reading memory.

    RUNNING: nothing stops it while it is read.  KERNEL: it is a whole machine, a `KernelTarget`.
    """

    NONE = 0
    LIVE = 1
    RUNNING = 2
    KERNEL = 4


class Target(Protocol):
    """A process, a core file or a dump."""

    @property
    def platform(self) -> Platform:
        """Return the architecture of the code in the target."""

    @property
    def capabilities(self) -> Capability:
        """Return what the target can do."""

    @property
    def kind(self) -> str:
        """Return ``live``, ``core`` or ``remote``."""

    @property
    def pid(self) -> Optional[int]:
        """Return the process id, None if unknown."""

    @property
    def description(self) -> str:
        """Describe the target in a few words, such as ``core file core.123``."""

    def problems(self) -> Sequence[Problem]:
        """Return what is wrong with the target itself, such as a truncated core."""

    def read(self, address: int, size: int) -> bytes:
        """Read exactly ``size`` bytes of memory.

        :raises FaultError: if any of them cannot be read; bytes that a core did not record count as such.
        """

    def auxv(self) -> Mapping[int, int]:
        """Return the auxiliary vector by ``AT_*`` number; empty if unknown."""

    def modules(self) -> Sequence[Module]:
        """List the images that the debugger itself knows, the main program first."""

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Find a C structure's layout in the debug information of ``module``; None without that."""

    def threads(self) -> Sequence[Thread]:
        """List the threads."""

    def registers(self, thread: Thread, names: Sequence[str] = (THREAD_POINTER,)) -> Mapping[str, int]:
        """Read registers of a thread, by their names in gdb and LLDB.

        ``thread_pointer`` stands for the architecture's own.  A register that cannot be read is left out, and others
        than those named may be there.
        """

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open the file that a module was loaded from, sysroot applied; None if it is missing."""


class AddressSpace(Protocol):
    """The memory that one process of a machine sees, kernel space included."""

    def read(self, address: int, size: int) -> bytes:
        """Read exactly ``size`` bytes of virtual memory.

        :raises FaultError: if any of them cannot be read.
        """


class KernelTarget(Target, Protocol):
    """A whole Windows machine: a kernel debug session, or a dump of the system's memory.

    ``capabilities`` has KERNEL; ``platform`` is that of the kernel with ``os`` ``windows``; ``pid`` is None;
    ``modules`` lists kernel modules as far as the adapter knows them.  ``read`` reads kernel space, whichever process
    is current; user space is read through `address_space`.

    ``find_layout`` returns a type of the module's PDB with its own members only.  A member within a union or structure
    of unnamed type has its path as its name, such as ``u.VadFlags`` of ``_MMVAD_SHORT`` (as in C: a member of an
    anonymous union has its own name); a member of named type is one member, here ``VadFlags`` of ``_MMVAD_FLAGS``.  For
    a bit-field, ``offset`` and ``size`` are those of its storage unit, ``bit_shift`` counts from that unit's lowest
    bit.
    """

    @property
    def kernel(self) -> Module:
        """Return the kernel's own image.

        ``build_id`` is the RSDS GUID as 32 upper-case hex digits, followed by the age in hex, as on symbol servers;
        None if the adapter does not know it.
        """

    @property
    def size(self) -> Optional[int]:
        """Return how much of the machine's memory the target has, in bytes; None if unknown."""

    @property
    def build_number(self) -> Optional[int]:
        """Return the build, such as 7601 for Windows 7 SP1; None if unknown."""

    @property
    def current_process(self) -> Optional[int]:
        """Return the address of the current process's ``_EPROCESS``, None if unknown."""

    def find_symbol(self, name: str) -> Optional[int]:
        """Find the address of a global of the kernel, such as ``PsActiveProcessHead``; None if unknown."""

    def read_physical(self, address: int, size: int) -> bytes:
        """Read exactly ``size`` bytes of physical memory.

        :raises FaultError: if any of them cannot be read.
        """

    def address_space(self, process: int, directory_table_base: int) -> AddressSpace:
        """Return the memory of a process, given its ``_EPROCESS`` and its ``DirectoryTableBase``."""


class Reaction(Enum):
    """What to do with a process at a breakpoint: resume it silently, or stop it for the user."""

    RESUME = "resume"
    STOP = "stop"


class Hit(Protocol):
    """A thread at a breakpoint; valid until the handler returns."""

    @property
    def address(self) -> int:
        """Return the address of the breakpoint."""

    @property
    def lwp(self) -> int:
        """Return the kernel's id of the thread."""

    def registers(self, names: Sequence[str]) -> tuple[int, ...]:
        """Read registers by their names in the debugger, all of them unsigned.

        :raises UnsupportedError: if a name is unknown.
        """


class Subscription(Protocol):
    """A breakpoint or a callback that can be removed."""

    def remove(self) -> None:
        """Cancel the subscription; from within a handler this takes effect at the next stop."""


class LiveTarget(Target, Protocol):
    """A process that a debugger runs.

    A handler returns a reaction and does nothing else to the debugger.
    """

    @property
    def keeps_breakpoints(self) -> bool:
        """Return True if a breakpoint in ld.so survives the end of a namespace, which has its own link map of ld.so."""

    def add_breakpoint(self, places: Sequence[int], on_hit: Callable[[Hit], Reaction]) -> Subscription:
        """Set breakpoints that the user's own lists do not show."""

    def on_end(self, callback: Callable[[str], None]) -> Subscription:
        """Call back, with what happened, when the process has ended, executes another program, or is detached."""

    def is_alive(self) -> bool:
        """Return True if the process that was selected still exists."""

    def find_line(self, address: int) -> Optional[str]:
        """Find the source line of an instruction, such as ``main.c:12``, None without debug information."""

    def say(self, text: str) -> None:
        """Write a message to the user between commands."""


class LiveLinuxTarget(LiveTarget, Protocol):
    """A process of Linux that a debugger runs."""

    def add_breakpoint(
        self, places: Sequence[int], on_hit: Callable[[Hit], Reaction], *, enabled: bool = True
    ) -> Subscription:
        """Set breakpoints that the user's own lists do not show; those that are not enabled wait for `exchange`."""

    def exchange(self, old: Sequence[Subscription], new: Sequence[Subscription]) -> None:
        """Replace breakpoints by others for good, at once, also from within a handler."""

    def stack_pointer(self, lwp: int) -> Optional[int]:
        """Read the stack pointer of a stopped thread; None if it cannot be read."""
