"""What must a target of Windows supply beyond `Target`?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from .lean import Protocol
from .target import Target
from .winmodel import Image, SystemVersion, UnloadedImage


class WindowsTarget(Target, Protocol):
    """A process of Windows, or a dump of one.

    ``platform.os`` is ``windows``, and ``platform.arch`` that of the native loader: x86_64 also for a process of 32-bit
    code on 64-bit Windows.  ``registers(thread)`` has the thread's TEB as ``thread_pointer``, and the registers by
    their own names.
    """

    @property
    def system(self) -> SystemVersion:
        """Give the version of Windows that the target claims to run on."""

    def peb(self) -> Optional[int]:
        """Give the address of the native PEB, None when unknown."""

    def images(self) -> Sequence[Image]:
        """List the modules that the debugger or dump knows, the program first."""

    def unloaded_images(self) -> Sequence[UnloadedImage]:
        """List the modules that the debugger or dump knows to be unloaded, the oldest first."""
