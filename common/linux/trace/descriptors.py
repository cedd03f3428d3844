"""Which file descriptors did an unloaded library leave open?

In two phases, so that unwatched calls cost nothing: first the kernel's list of descriptors is compared before the
dlopen, at the dlclose and after it, which names the library and the descriptors.  A second trace, of that library only,
breaks on libc's functions that create descriptors and records the call sites.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Optional

from ...charset import decode
from ...errors import DlwhyError
from ...memory import Memory
from ...paths import base_name
from ...trace.events import EventHeader, Site
from ..loader.maps import LinkMap
from ..state.process import GlibcProcess
from .callers import Callers
from .events import DescriptorLeak, LibraryInstance

#: libc's functions that create descriptors, with the index of the argument that is a path.
DESCRIPTOR_FUNCTIONS: Mapping[str, Optional[int]] = {
    "accept": None,
    "accept4": None,
    "creat": 0,
    "creat64": 0,
    "dup": None,
    "dup2": None,
    "dup3": None,
    "epoll_create": None,
    "epoll_create1": None,
    "eventfd": None,
    "fopen": 0,
    "fopen64": 0,
    "inotify_init": None,
    "inotify_init1": None,
    "memfd_create": None,
    "mkostemp": None,
    "mkstemp": None,
    "mkstemp64": None,
    "open": 0,
    "open64": 0,
    "openat": 1,
    "openat64": 1,
    "opendir": 0,
    "pipe": None,
    "pipe2": None,
    "popen": None,
    "shm_open": 0,
    "signalfd": None,
    "socket": None,
    "socketpair": None,
    "timerfd_create": None,
}

MAX_CALLS = 10_000

OpenDescriptors = Mapping[int, str]


def read_descriptors(pid: int) -> OpenDescriptors:
    """Read a process's open descriptors: targets of /proc/PID/fd by number; empty if unreadable."""
    found = {}
    folder = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(folder)
    except OSError:
        return {}
    for number in numbers:
        try:
            found[int(number)] = decode(os.readlink(f"{folder}/{number}".encode()))
        except OSError:
            continue  # closed since it was listed
    return found


class _DescriptorCall(NamedTuple):
    """A call that created a descriptor: the calling library, the call site, and the requested path."""

    library: int
    site: Site
    path: Optional[str]


class Descriptors:
    """The open descriptors of a process, now and when each library was loaded."""

    def __init__(self, pid: int, *, watches_calls: bool) -> None:
        self._pid = pid
        self._watches_calls = watches_calls
        self._first = self.read()
        self._born: dict[int, OpenDescriptors] = {}
        self._reported: set[tuple[int, str]] = set()
        self._calls: dict[_DescriptorCall, None] = {}

    def read(self) -> OpenDescriptors:
        """Read the open descriptors."""
        return read_descriptors(self._pid)

    def note_load(self, link_map: LinkMap, before: OpenDescriptors) -> None:
        """Record that a library has been loaded, and the descriptors that were open before."""
        self._born[link_map.address] = before

    def note_call(self, holder: LinkMap, site: Site, path: Optional[str]) -> None:
        """Record a library's call that creates a descriptor."""
        if len(self._calls) < MAX_CALLS:
            self._calls[_DescriptorCall(holder.address, site, path)] = None

    def find_leaks(
        self,
        gone: Mapping[int, LibraryInstance],
        closed: Optional[LibraryInstance],
        before: OpenDescriptors,
        header: EventHeader,
    ) -> Iterator[DescriptorLeak]:
        """Yield the descriptors that unloaded libraries left open.

        Libraries loaded together count as one: the closed library is named, or else the first one.

        :param gone: the unloaded libraries by link map address.
        :param closed: the library that was closed.
        :param before: the descriptors open when the close began.
        """
        now = self.read()
        groups: dict[int, tuple[OpenDescriptors, list[LibraryInstance]]] = {}
        for address, instance in gone.items():
            snapshot = self._born.pop(address, self._first)
            groups.setdefault(id(snapshot), (snapshot, []))[1].append(instance)
        for snapshot, instances in groups.values():
            library = closed if closed in instances else instances[0]
            assert library is not None
            for number, path in sorted(before.items()):
                is_left = snapshot.get(number) != path and now.get(number) == path
                if is_left and (number, path) not in self._reported:
                    self._reported.add((number, path))
                    yield DescriptorLeak(header, library, number, path, self._sites(instances, path))
        for each in [call for call in self._calls if call.library in gone]:
            del self._calls[each]
        # A number that has been closed can be leaked again.
        self._reported = {(number, path) for number, path in self._reported if now.get(number) == path}

    def _sites(self, instances: list[LibraryInstance], path: str) -> Optional[tuple[Site, ...]]:
        if not self._watches_calls or len(self._calls) >= MAX_CALLS:
            return None
        addresses = {instance.link_map for instance in instances}
        calls = [call for call in self._calls if call.library in addresses]
        named = [call for call in calls if call.path and base_name(call.path) == base_name(path)]
        return tuple(dict.fromkeys(call.site for call in named or calls))


def read_path(memory: Memory, address: int) -> Optional[str]:
    """Read a path argument; None if it is NULL or unreadable."""
    try:
        return memory.c_string(address) if address else None
    except DlwhyError:
        return None  # all descriptors that the library opened can be this one


def name_call(callers: Callers, process: GlibcProcess, pc: int) -> Optional[tuple[LinkMap, Site]]:
    """Find the library that called, and its call site."""
    holder = process.find_map(pc)
    site = callers.name(process, pc)
    return (holder, site) if holder is not None and site is not None else None
