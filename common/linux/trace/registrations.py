"""Which TLS destructor is a thread about to register, for which library, and who calls?"""

from __future__ import annotations

from typing import NamedTuple, Optional

from ...memory import Memory
from ...target import Hit
from ...trace.events import Site
from .callers import Callers
from .events import LibraryInstance
from .in_flight import instance_of
from .snapshot import LoaderSnapshot

#: ``int __cxa_thread_atexit_impl (dtor_func func, void *obj, void *dso_symbol)`` registers a TLS destructor.
REGISTER = "__cxa_thread_atexit_impl"


class RegistrationCall(NamedTuple):
    """A call that registers a destructor: caller, library kept, destructor and object.

    ``library`` is None if not all libraries could be read, and it is none of the others.
    """

    caller: Optional[Site]
    library: Optional[LibraryInstance]
    function: Site
    object: int


def read_registration(hit: Hit, memory: Memory, snapshot: LoaderSnapshot, callers: Callers) -> RegistrationCall:
    """Read the TLS destructor that a thread is about to register.

    :param hit: the thread, at the start of ``__cxa_thread_atexit_impl``.
    :param memory: the current memory, with nothing cached.
    :raises FaultError: if its arguments cannot be read.
    :raises UnsupportedError: if the process executes another program.
    """
    function, subject, symbol = (callers.argument(hit, memory, i) for i in range(3))
    pc = callers.return_address(hit, memory)
    if any(snapshot.process.find_map(address) is None for address in (function, symbol, pc)):
        snapshot.refresh()  # for names only: changes are found at the next event
    process = snapshot.process
    caller = callers.name(process, callers.skip_libstdcxx(hit, process, pc))
    kept = process.find_map(symbol)
    if kept is None and process.graph.complete:
        kept = process.graph.namespaces[0].maps[0]
    code = callers.name(process, function, before=0) or Site(function)
    return RegistrationCall(caller, instance_of(process, kept) if kept else None, code, subject)
