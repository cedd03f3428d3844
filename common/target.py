"""What must a debugger, core file or process supply, so that everything else can be computed?

An adapter hands over bytes, names and offsets, never values: all decoding is done above it, in the same
way for every debugger.
"""

from __future__ import annotations

from .lean import Flag, Protocol
from .model import Layout, Module, Platform, Problem, Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import BinaryIO, Optional


class Capability(Flag):
    """What a target is or can do beyond reading memory: RUNNING means that nothing stops it meanwhile."""

    NONE = 0
    LIVE = 1
    RUNNING = 2


class Target(Protocol):
    """What is examined: a process, a core file, a dump."""

    @property
    def platform(self) -> Platform:
        """Give the architecture of the code in the target."""

    @property
    def capabilities(self) -> Capability:
        """Tell what the target can do."""

    @property
    def kind(self) -> str:
        """Name what the target is: ``live``, ``core`` or ``remote``."""

    @property
    def pid(self) -> Optional[int]:
        """Give the process id, None where it is not known."""

    @property
    def description(self) -> str:
        """Describe the target in a few words, such as ``core file core.123``."""

    def problems(self) -> Sequence[Problem]:
        """Tell what is wrong with the target itself, such as a core that is cut off."""

    def read(self, address: int, size: int) -> bytes:
        """Read exactly ``size`` bytes of memory.

        :raises FaultError: if any of them cannot be read; bytes that a core did not record count as such.
        """

    def auxv(self) -> Mapping[int, int]:
        """Give the auxiliary vector by ``AT_*`` number; empty when unknown."""

    def modules(self) -> Sequence[Module]:
        """List the images that the debugger itself knows, the main program first."""

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Find a C structure's layout in the debug information of ``module``, None without it."""

    def threads(self) -> Sequence[Thread]:
        """List the threads."""

    def registers(self, thread: Thread) -> Mapping[str, int]:
        """Read registers of a thread; ``thread_pointer`` stands for the architecture's own.

        A register that cannot be read is left out.
        """

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open the file that a module was loaded from, sysroot applied; None when it is not here."""
