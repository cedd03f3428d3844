"""What made a library NODELETE?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Optional

from ...errors import CorruptError, DlwhyError, FaultError
from ..elf.image import DT_FLAGS_1
from ..loader.maps import DF_1_NODELETE, LinkMap, for_each_unique_symbol
from ..loader.roots import LT_LOADED
from .process import GlibcProcess

_GUARD = "guard variable for "
# The cost of examining a library, in Memory's units.
_STEP_UNITS = 4


class NodeleteOrigins:
    """Why libraries of a process are NODELETE; independent of open counts."""

    def __init__(self, process: GlibcProcess) -> None:
        self._process = process
        self._unread_namespaces: set[int] = set()

    def origin(self, link_map: LinkMap) -> tuple[Optional[str], Sequence[str]]:
        """Return what made a library NODELETE, and through which symbols, as the linker names them.

        The origin is ``elf-flag``, ``unique-symbol``, ``bound-by-startup``, ``dlopen-flag``, or
        ``dlopen-flag-or-dlsym`` if it can be RTLD_NODELETE or a lookup by dlsym, which leaves no trace; None if not
        all traces could be read.
        """
        return next(self.for_each_origin(link_map))

    def for_each_origin(self, link_map: LinkMap) -> Iterator[tuple[Optional[str], Sequence[str]]]:
        """Yield every cause of a library's NODELETE mark that leaves a trace; without one, what leaves none.

        The last one is None, and a problem is recorded, if not all traces could be read.
        """
        found = False
        if self._has_flag(link_map):
            found = True
            yield "elf-flag", ()
        unique = self._unique.get(link_map.address, ())
        if unique:
            found = True
            yield "unique-symbol", unique
        bound = self._bound_by_startup(link_map)
        if bound:
            found = True
            yield "bound-by-startup", bound
        unread = self._find_unread(link_map)
        if unread:
            self._process.note_trouble(link_map, f"not all that can have made it NODELETE is known: {unread}")
            yield None, ()
        elif not found:
            # A start-up library finds symbols only in the global scope, so it did not bind to a library outside it.
            yield ("dlopen-flag-or-dlsym" if link_map.field("l_global") else "dlopen-flag"), ()

    def _has_flag(self, link_map: LinkMap) -> bool:
        """Return True if the file requests NODELETE.

        Until glibc 2.30 l_flags_1 holds the other causes too (split by f63b73814f74, bug 20839), so the file is read.
        """
        if link_map.l_nodelete_active is not None:
            return link_map.l_flags_1 & DF_1_NODELETE != 0
        return bool(self._flags(link_map))

    def _flags(self, link_map: LinkMap) -> Optional[int]:
        """Read DF_1_NODELETE of a file's DT_FLAGS_1, None if the dynamic section cannot be read."""
        image = self._process.image(link_map)
        try:
            return None if image is None else image.dynamic.get(DT_FLAGS_1, 0) & DF_1_NODELETE
        except DlwhyError:
            return None  # carried on by _find_unread

    def _find_unread(self, link_map: LinkMap) -> str:
        """Return what cannot be read of the traces that a cause leaves; empty for nothing."""
        if link_map.l_nodelete_active is None and self._flags(link_map) is None:
            return "its dynamic section cannot be read"
        if self._unread_namespaces & {link_map.l_ns}:
            return "the unique symbols of its namespace cannot be read"
        for other in self._for_each_binder(link_map):
            if not self._process.bindings.is_complete(other):
                return f"what {self._process.name(other)} is bound to cannot be read"
        return ""

    @cached_property
    def _unique(self) -> Mapping[int, list[str]]:
        """Collect the unique symbols by the address of the link map that owns them."""
        process = self._process
        owners: dict[int, list[str]] = {}
        for namespace in process.graph.namespaces:
            try:
                for symbol in for_each_unique_symbol(process.memory, process.layouts, namespace):
                    owners.setdefault(symbol.owner, []).append(symbol.name)
            except (FaultError, CorruptError) as error:
                process.add_problem(f"unique symbols of namespace {namespace.number}", str(error))
                self._unread_namespaces.add(namespace.number)
        return owners

    def _bound_by_startup(self, link_map: LinkMap) -> list[str]:
        """Find the symbols by which libraries that stay for good point into a library.

        Until glibc 2.30 every NODELETE library makes NODELETE what it binds to; since 2.31 (f8ed116aa574) only start-up
        libraries do: ``add_dependency`` tests the flag of the target instead of ``undef_map``.  That is a slip in
        glibc, so a later release may undo it.
        """
        symbols: set[str] = set()
        for other in self._for_each_binder(link_map):
            symbols.update(self._process.bindings.symbols_into(other, link_map))
        return sorted(symbols)

    def _for_each_binder(self, link_map: LinkMap) -> Iterator[LinkMap]:
        """Yield the libraries whose bindings make others NODELETE."""
        namespace = self._process.namespaces.get(link_map.l_ns)
        for other in namespace.maps if namespace is not None else ():
            permanent = other.l_type != LT_LOADED or (other.nodelete and other.l_nodelete_active is None)
            if not self._process.memory.spend(_STEP_UNITS, "what NODELETE libraries are bound by"):
                break
            if permanent and other is not link_map and not other.is_proxy:
                yield other


def without_guards(names: set[str]) -> list[str]:
    """Sort names without the guard variables of variables that are listed too."""
    return sorted(name for name in names if name[len(_GUARD) :] not in names or not name.startswith(_GUARD))
