"""What must a target provide for Windows, beyond `Target`?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Optional, Protocol

from ..model import Thread
from ..target import LiveTarget, Subscription, Target
from .model import ListedImage, SystemVersion, UnloadedImage

#: Why dumps are refused, after the name of the dump.
TRIAGE_REFUSAL = "is a small (triage) dump, which has no VADs: set the machine to write kernel or complete memory dumps"
PROCESSOR_REFUSAL = "is of {}: only x86, x64 and ARM64 are supported"
MACHINE_REFUSAL = "is of machine type {:#x}: only x64 and x86 are supported"
SYSTEM_REFUSAL = "is no minidump of Windows, but of a program of another system"

#: What problems call a loader that could not be read, by its kind.
LOADER_NAMES = {"native": "the loader", "wow64": "the 32-bit loader"}


#: What the architectures call these registers.
PROGRAM_COUNTERS, STACK_POINTERS = ("rip", "eip", "pc"), ("rsp", "esp", "sp")
#: Of ARM64, the return address until a function stores it.
LINK_REGISTER = "lr"


class WindowsTarget(Target, Protocol):
    """A Windows process, or a dump of one.

    ``platform.os`` is ``windows``, and ``platform.arch`` the native loader's: x86_64 also for a process of 32-bit
    code on 64-bit Windows; aarch64 is ARM64.  ``registers(thread)`` has the thread's TEB as ``thread_pointer``, and
    the registers by their own names.
    """

    @property
    def system(self) -> SystemVersion:
        """Return the version of Windows that the target claims to run on."""

    def peb(self) -> Optional[int]:
        """Return the address of the native PEB, None if unknown."""

    def images(self) -> Sequence[ListedImage]:
        """List the modules that the debugger or dump knows, the program first."""

    @property
    def images_complete(self) -> bool:
        """Return False if `images` can lack modules: their list is missing or truncated, or was not read completely."""

    def thread_starts(self) -> Mapping[int, int]:
        """Return the addresses at which threads began, by the threads' numbers, as far as known."""

    def memory_ranges(self) -> Optional[Sequence[tuple[int, int]]]:
        """List the ranges of all memory that can be read, each with its end, sorted; None if they are not known."""

    def unloaded_images(self) -> Optional[Sequence[UnloadedImage]]:
        """List the modules that the debugger or dump knows to be unloaded, the oldest first; None without a list."""

    def stack(self, thread: Thread) -> Optional[tuple[int, int]]:
        """Return start and end of a thread's stack as the dump lists it, None if it does not."""

    def exception(self) -> Optional[RaisedException]:
        """Return the exception that the dump was written for, or the process has stopped at; None if there is none."""


class RaisedException(NamedTuple):
    """An exception: EXCEPTION_RECORD's members, the thread's id, and the registers of its own context.

    The thread itself can have run on since, into the handlers.  ``registers`` is empty if they are not known.
    """

    tid: int
    code: int
    address: int
    parameters: tuple[int, ...]
    registers: Mapping[str, int]


class StackFrame(NamedTuple):
    """An active function: its program counter, and its stack pointer there."""

    pc: int
    sp: int


class LiveWindowsTarget(WindowsTarget, LiveTarget, Protocol):
    """A Windows process that a debugger runs.

    A handler may also set and remove breakpoints; one in a module has to be removed before the module is unloaded.
    """

    def on_module_change(self, callback: Callable[[int, str, bool], None]) -> Subscription:
        """Call back with base, name and whether it was loaded, else unloaded, in the thread that does it."""

    def current_lwp(self) -> int:
        """Return the id of the thread that the last event came from."""

    def frames(self, most: int) -> Sequence[StackFrame]:
        """Unwind the thread that the last event came from: its own frame, then its callers, as far as possible."""

    def find_symbol(self, address: int) -> Optional[str]:
        """Return the function that covers an address, such as ``main+0x12``; the nearest export without a PDB."""

    def run(self) -> None:
        """Resume the process until it stops or ends."""
