"""Which processes are there?"""

from __future__ import annotations

from typing import NamedTuple

from ...charset import decode
from ...counts import quantity
from ...lists import Walk, follow_ring
from ...model import Problem
from .kernel import Nt

MAX_PROCESSES = 1 << 16


class Process(NamedTuple):
    """A process: the address of its ``_EPROCESS``, and the members that matter here.

    ``name`` is ``ImageFileName``, at most 14 characters of it.  ``wow64`` is the WoW64 process pointer (the 32-bit PEB
    up to Windows 10 1511, ``_EWOW64PROCESS`` later), 0 for a native process.  ``exited`` says that its last thread has
    ended.
    """

    eprocess: int
    pid: int
    name: str
    directory_table_base: int
    object_table: int
    peb: int
    wow64: int
    exited: bool

    @property
    def is_plausible(self) -> bool:
        """Return True if this can be a process; for addresses that no list confirms."""
        return self.pid > 0 and self.pid % 4 == 0 and self.name.isprintable() and self.directory_table_base > 0


def list_processes(nt: Nt, problems: list[Problem]) -> list[Process]:
    """List the processes in the order of ``PsActiveProcessHead``.

    If the list is damaged, the processes after the damage are reached from its other end.
    """
    head = nt.find_symbol("PsActiveProcessHead")
    if head is None:
        return []
    reader = ProcessReader(nt)
    walk = _follow(reader, head)
    found = {process.eprocess: process for process in walk}
    if not walk.is_complete:
        for process in reversed(_follow(reader, head, backwards=True).all()):
            found.setdefault(process.eprocess, process)
        reached = quantity(len(found), "process was", "processes were")
        message = f"{walk.reason}; {reached} reached from both ends"
        problems.append(Problem("PsActiveProcessHead", message))
    return list(found.values())


def _follow(reader: ProcessReader, head: int, *, backwards: bool = False) -> Walk[Process]:
    return follow_ring(
        reader.nt.memory,
        head,
        lambda entry: reader.read(entry - reader.links),
        limit=MAX_PROCESSES,
        backwards=backwards,
        subject="the list of processes",
    )


class ProcessReader:
    """Read ``_EPROCESS`` structures."""

    def __init__(self, nt: Nt) -> None:
        self.nt = nt
        self.links = nt.offset("_EPROCESS", "ActiveProcessLinks")
        self._name = nt.field("_EPROCESS", "ImageFileName")
        table_base = nt.field("_KPROCESS", "DirectoryTableBase")
        self._table_base = table_base._replace(offset=table_base.offset + nt.offset("_EPROCESS", "Pcb"))
        self._members = nt.members(
            "_EPROCESS",
            "UniqueProcessId",
            "ObjectTable",
            "Peb",
            optional=("Wow64Process", "WoW64Process", "ExitTime", "ActiveThreads"),
        )

    def read(self, eprocess: int) -> Process:
        """Read a process.

        :raises FaultError: if it cannot be read.
        """
        memory = self.nt.memory
        values = self._members.read(memory, eprocess)
        name = memory.read(eprocess + self._name.offset, self._name.size).partition(b"\0")[0]
        return Process(
            eprocess=eprocess,
            pid=values["UniqueProcessId"],
            name=decode(name),
            directory_table_base=memory.unsigned(eprocess + self._table_base.offset, self._table_base.size),
            object_table=values["ObjectTable"],
            peb=values["Peb"],
            wow64=values.get("Wow64Process", values.get("WoW64Process", 0)),
            exited=bool(values.get("ExitTime")) and values.get("ActiveThreads") == 0,
        )
