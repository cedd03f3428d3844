"""What do the loaders of a machine's processes call the files that they have loaded?

The kernel's own names, in file objects, are in paged pool and can be missing; VAD trees can be unreadable.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import DlwhyError
from ..memory import ALLOWANCE, Memory
from .kernel.kernel import Nt
from .kernel.processes import Process
from .kernel.usermode import MachineProcess
from .loader.lists import choose_layout

#: The most that reading one process's lists may cost, in Memory's units.
_MOST_UNITS = ALLOWANCE // 16
_MINIMUM_UNITS = ALLOWANCE // 1000


class LoadedNames:
    """The paths in the loaders' lists of processes; each process is read once."""

    def __init__(self, nt: Nt) -> None:
        self._nt = nt
        self._paths: dict[int, Mapping[int, str]] = {}

    def paths(self, process: Process) -> Mapping[int, str]:
        """Return paths by base address; what is in no list that can be read is missing, so absence says nothing."""
        if process.eprocess not in self._paths:
            self._paths[process.eprocess] = self._read(process)
        return self._paths[process.eprocess]

    def _read(self, process: Process) -> Mapping[int, str]:
        allowance = min(_MOST_UNITS, self._nt.memory.units_left)
        if process.exited or not process.peb or allowance < _MINIMUM_UNITS:
            return {}
        machine = self._nt.target
        space = machine.address_space(process.eprocess, process.directory_table_base)
        target = MachineProcess(machine, self._nt, process, space)
        memory = Memory(target, allowance)
        found: dict[int, str] = {}
        narrow = target.wow64_peb()
        for kind, peb, arch in (("native", process.peb, machine.platform.arch), ("wow64", narrow, "i386")):
            try:
                loader = choose_layout(kind, memory, peb, arch, target) if peb else None
            except DlwhyError:
                continue  # what is missing here says nothing
            for entry in loader.entries.values() if loader else ():
                if entry.base and (entry.path or entry.name):
                    found.setdefault(entry.base, entry.path or entry.name)
        self._nt.memory.spend(allowance - max(0, memory.units_left), "the loaders' lists of processes")
        return found
