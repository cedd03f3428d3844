"""Which function covers an address, and through which symbols is one library bound to another?

Both are slow, so results for unchanged libraries are carried over from an earlier snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Optional

from ...errors import DlwhyError
from ...memory import Memory
from ..elf.image import ElfImage, ElfImages
from ..loader.maps import LinkMap, is_same_library

if TYPE_CHECKING:
    from ..elf.bindings import Bindings

#: How many function names are cached.
MAX_FUNCTIONS = 4096

# Costs in Memory's units: a function that is looked up in a file, a search in a library's bindings, a symbol's name,
# each of its characters.
_FUNCTION_UNITS = 250_000
_SEARCH_UNITS = 120
_NAME_UNITS = 500
TEXT_UNITS = 8

_RUST_INNER = r"::(?:\{\{|\{constant#|__getit::).*"


class FunctionNames:
    """A cache of function names; the threads of a pool all have the same destructors."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[LinkMap, Optional[str]]] = {}

    def name(
        self, memory: Memory, image: Optional[ElfImage], link_map: LinkMap, path: str, address: int
    ) -> Optional[str]:
        """Return the demangled name of the function that covers an address in a library, None if there is none.

        :param image: the library's image, None if it cannot be read.
        :param path: its file.
        """
        known = self._known.get(address)
        if known is None or not is_same_library(known[0], link_map):
            if len(self._known) >= MAX_FUNCTIONS:
                self._known.clear()
            found = None if image is None else _find_name(memory, image, path, link_map.l_map_start, address)
            known = self._known[address] = link_map, found
        return known[1]


def name_variable(
    memory: Memory, image: Optional[ElfImage], path: str, link_map: LinkMap, offset: int
) -> Optional[str]:
    """Return the demangled name of a thread-local variable, None if there is none.

    :param offset: the variable's offset, or that of a part of it, in the library's block.
    """
    if image is None or not memory.spend(_FUNCTION_UNITS, "names of variables"):
        return None
    from ..elf.demangle import demangle  # few answers need these
    from ..elf.files import name_tls_variable

    try:
        name = name_tls_variable(memory, image, path, link_map.l_map_start, offset)
    except DlwhyError:
        return None  # as for one that no symbol covers: the object's address is shown
    found = demangle(name) if name else None
    if found is not None and not memory.spend(TEXT_UNITS * len(found), "names of variables"):
        return None
    # Rust keeps the value of a thread_local! in a variable within it.
    return found and re.sub(_RUST_INNER, "", found)


def _find_name(memory: Memory, image: ElfImage, path: str, start: int, address: int) -> Optional[str]:
    if not memory.spend(_FUNCTION_UNITS, "names of functions"):
        return None
    from ..elf.demangle import demangle  # few answers need these
    from ..elf.files import name_function

    try:
        name = name_function(memory, image, path, start, address)
    except DlwhyError:
        return None  # as for one that no symbol covers: the address is shown
    return demangle(name) if name else None


def demangled(memory: Memory, symbols: Iterable[str]) -> set[str]:
    """Return the demangled names of some symbols: at least one, and as many as the budget allows."""
    from ..elf.demangle import demangle_all

    affordable: list[str] = []
    for symbol in symbols:
        if not memory.spend(_NAME_UNITS + TEXT_UNITS * len(symbol), "names of symbols") and affordable:
            break
        affordable.append(symbol)
    found = set(demangle_all(affordable).values())
    memory.spend(TEXT_UNITS * sum(map(len, found)), "names of symbols")
    return found


class BindingCache:
    """The bindings of all libraries in one snapshot, each found on demand."""

    def __init__(
        self, memory: Memory, images: ElfImages, earlier: Optional[Mapping[int, tuple[LinkMap, Bindings]]] = None
    ) -> None:
        """Create the cache for one snapshot from the bindings of an earlier one.

        :param earlier: the bindings by link map address, each with the link map as it was then.
        """
        self._memory = memory
        self._images = images
        self._earlier = earlier or {}
        self._found: dict[int, tuple[LinkMap, Bindings]] = {}

    def later(self, memory: Memory, images: ElfImages, there: Mapping[int, LinkMap]) -> BindingCache:
        """Return the bindings in a later snapshot, in which the link maps ``there`` are loaded."""
        known = {**self._earlier, **self._found}
        return BindingCache(memory, images, {address: each for address, each in known.items() if address in there})

    def of(self, holder: LinkMap) -> Optional[Bindings]:
        """Return a library's bindings, None if its image cannot be read; the same object again if nothing changed."""
        if holder.address not in self._found:
            before = self._earlier.get(holder.address)
            if before is not None and is_same_library(before[0], holder):
                self._found[holder.address] = holder, before[1].later(self._memory)
            else:
                image = self._images.at(holder.l_map_start)
                if image is None:
                    return None
                from ..elf.bindings import Bindings

                self._found[holder.address] = holder, Bindings(self._memory, image)
        return self._found[holder.address][1]

    def is_complete(self, holder: LinkMap) -> bool:
        """Return True if all that a library is bound to could be read."""
        bindings = self.of(holder)
        return bindings is not None and bindings.is_complete

    def symbols_into(self, holder: LinkMap, held: LinkMap) -> tuple[str, ...]:
        """Return the linker's names of the symbols by which one library points into another."""
        bindings = self.of(holder)
        if bindings is None:
            return ()
        units = _SEARCH_UNITS + bindings.count_into(*held.extent)
        return bindings.symbols_into(*held.extent) if self._memory.spend(units, "what libraries are bound to") else ()
