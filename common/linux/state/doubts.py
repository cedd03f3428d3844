"""What does a link map say that something else in the process contradicts?

The loader stores most of what it knows of a library twice: in the link map and in the library's own headers, in the
lists of other libraries, of the namespace or of threads.  Where the two differ, neither is believed: whether this
library stays is then not known.  Nothing is compared that differs while a dlopen or dlclose runs.

Sources: glibc's elf/dl-load.c, elf/dl-deps.c, elf/dl-open.c, elf/dl-close.c, elf/rtld.c, releases 2.17 to 2.43.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Optional

from ...counts import quantity
from ...errors import CorruptError, DlwhyError, FaultError
from ..auxv import AT_PAGESZ
from ..elf.image import DT_STRSZ, DT_STRTAB, PT_DYNAMIC, PT_LOAD, ProgramHeader, parse_program_headers
from ..loader.find import is_libc
from ..loader.maps import DF_1_NODELETE, MAX_NAMESPACES, Doubt, LinkMap, for_each_unique_owner
from ..loader.roots import LT_EXECUTABLE, LT_LIBRARY, LT_LOADED
from .naming import is_vdso
from .nodelete import NodeleteOrigins
from .process import GlibcProcess

if TYPE_CHECKING:
    from .needed import UnlistedUsers

#: Part of the names of the functions that register TLS destructors: __cxa_thread_atexit and __cxa_thread_atexit_impl.
_REGISTRAR = b"__cxa_thread_atexit"
#: Members that are 0 in nearly all libraries, and in none that was opened.
_PLAIN = ("l_loader", "l_searchlist.r_list")
#: The function that each auditing library has (rtld-audit(7)).
_AUDITOR = "la_version"
_MAX_STRING_TABLE = 64 << 20
_DEFAULT_PAGE_SIZE = 4096
#: The collector sets l_idx to this in each link map that it keeps (IDX_STILL_USED of elf/dl-close.c).
_STILL_USED = -1
_TYPES = {LT_EXECUTABLE: "the main program", LT_LIBRARY: "a start-up library", LT_LOADED: "an opened library"}


class Doubts:
    """The contradictions in the link maps of a process; independent of open counts."""

    def __init__(self, process: GlibcProcess, nodelete: NodeleteOrigins, *, compared: bool = True) -> None:
        """Create the contradictions of a process.

        :param nodelete: what made libraries NODELETE.
        :param compared: False if only those are reported that were met when the lists were read: between two events
            of a trace everything is in motion.
        """
        self._process = process
        self._compared = compared
        self._nodelete = nodelete
        self._known: dict[int, Sequence[Doubt]] = {}
        self._unmarked: dict[int, Sequence[Doubt]] = {}
        self._is_still = not process.lock.is_held and process.start.r_state == 0

    def of(self, link_map: LinkMap) -> Sequence[Doubt]:
        """Return what contradicts a library's link map; record it as the library's trouble."""
        found = self._known.get(link_map.address)
        if found is None:
            if not self._compared:
                found = tuple(self._process.graph.doubts.get(link_map.address, ()))
            else:
                found = () if self._is_plain(link_map) else tuple(self._find(link_map))
            self._known[link_map.address] = found
            self._note(link_map, found)
        return found

    def _is_plain(self, link_map: LinkMap) -> bool:
        """Return True if it is seen at once that nothing contradicts a library's link map; `_find` finds out the rest.

        Nearly all libraries are so, and to compare them one by one would take half of the time for a table.
        """
        address, process = link_map.address, self._process
        if (
            address in process.graph.doubts
            or not self._is_still
            or link_map.l_type != LT_LOADED
            or link_map.l_real != address
            or link_map.l_ns != self._namespaces[address]
            or not link_map.l_relocated
            or link_map.l_auditing
            or link_map.l_nodelete_pending
            or link_map.nodelete
            or link_map.l_flags_1 & DF_1_NODELETE
            or (link_map.l_ns == 0 and (self._startup is None or address in self._startup))
            or (link_map.l_tls_dtor_count or 0) != self._destructors.get(address, 0)
            or address in self._unique_owners
            or not process.has_agreeing_headers(link_map)
        ):
            return False
        if self._pick is None:
            return False
        loader, searched = self._pick(link_map.values)
        is_loader = not loader or loader in process.graph.by_address
        return is_loader and (searched != 0 or not link_map.l_direct_opencount)

    @cached_property
    def _pick(self) -> Optional[Callable[[Sequence[int]], tuple[int, int]]]:
        structure = self._process.graph.structure
        is_known = all(structure.is_plain_integer(name) for name in _PLAIN)
        return itemgetter(*(structure.places[name][0] for name in _PLAIN)) if is_known else None

    def of_unmarked(self, link_map: LinkMap) -> Sequence[Doubt]:
        """Return the same for a library that nothing seems to keep: then there are more things to compare."""
        found = self.of(link_map)
        if found or not (self._compared and self._is_still and link_map.l_relocated):
            return found
        if link_map.address not in self._unmarked:
            self._unmarked[link_map.address] = tuple(self._find_unmarked(link_map))
        return self._unmarked[link_map.address]

    def note_unmarked(self, link_map: LinkMap) -> None:
        """Record that as the library's trouble, too."""
        self._note(link_map, self._unmarked.get(link_map.address, ()))

    def unlisted_users(self, link_map: LinkMap) -> Sequence[LinkMap]:
        """Return the libraries that need one by their files, and whose l_initfini contradicts that."""
        return self._unlisted_users.of(link_map) if self._compared and self._is_still else ()

    def note_unlisted(self, user: LinkMap, link_map: LinkMap) -> None:
        """Record such a contradiction as the trouble of the library that needs the other."""
        name = self._process.name(link_map)
        doubt = self._doubt(user, "l_initfini", f"that list lacks {name}, which it needs by DT_NEEDED")
        self._process.note_trouble(user, f"{doubt.text}: whether {name} stays is not known")

    @cached_property
    def _unlisted_users(self) -> UnlistedUsers:
        from .needed import UnlistedUsers  # most libraries are kept

        return UnlistedUsers(self._process)

    def _note(self, link_map: LinkMap, found: Sequence[Doubt]) -> None:
        for doubt in found:
            self._process.note_trouble(link_map, f"{doubt.text}: whether it stays is not known")

    def _find(self, link_map: LinkMap) -> Iterator[Doubt]:
        yield from self._process.graph.doubts.get(link_map.address, ())
        if link_map.l_ns != self._namespaces[link_map.address]:
            yield self._doubt(link_map, "l_ns", f"it is in the list of namespace {self._namespaces[link_map.address]}")
        if link_map.is_proxy:
            yield from self._find_in_proxy(link_map)
            return
        yield from self._find_in_type(link_map)
        loader = link_map.field("l_loader")
        # The collector clears it in the libraries of its own namespace when it unloads the loader.
        is_known = self._process.graph.complete and link_map.l_ns == 0
        if loader and is_known and loader not in self._process.graph.by_address:
            yield self._doubt(link_map, "l_loader", "there is no library at that address")
        yield from self._find_in_range(link_map)
        if link_map.l_type == LT_LOADED and self._is_still:
            yield from self._find_in_flags(link_map)
            yield from self._find_in_counts(link_map)

    def _doubt(self, link_map: LinkMap, member: str, text: str) -> Doubt:
        """Return a doubt about a member: its value, its address, and what contradicts it."""
        field = self._process.layouts.require("link_map").fields[member]
        value = link_map.field(member) or 0
        shown = f"{value:#x}" if value > 9 else f"{value}"
        return Doubt(member, f"{member} at {link_map.address + field.offset:#x} is {shown}, but {text}")

    # -- the lists --------------------------------------------------------------------------------------------

    @cached_property
    def _namespaces(self) -> Mapping[int, int]:
        """Return the number of the namespace in whose list each link map is."""
        return {m.address: each.number for each in self._process.graph.namespaces for m in each.maps}

    @cached_property
    def _main(self) -> Optional[LinkMap]:
        base = self._process.namespaces.get(0)
        return base.maps[0] if base is not None and base.maps else None

    @cached_property
    def _startup(self) -> Optional[frozenset[int]]:
        """Return the start-up libraries by the main program's l_initfini, which preloaded ones are in, too."""
        if self._main is None or not self._main.listed or self._main.address in self._process.graph.doubts:
            return None
        return frozenset(self._main.listed)

    def _find_in_proxy(self, link_map: LinkMap) -> Iterator[Doubt]:
        """Yield what contradicts l_real: only ld.so has link maps that stand for another one."""
        rtld = self._process.graph.by_address.get(self._process.private.rtld_map.address)
        if rtld is None:
            return
        if link_map.l_real != rtld.address or self._namespaces[link_map.address] == 0:
            text = f"the link map's own address is {link_map.address:#x}, and that of ld.so {rtld.address:#x}"
            yield self._doubt(link_map, "l_real", text)
        elif link_map.l_ld not in (0, rtld.l_ld):
            yield self._doubt(link_map, "l_real", f"its l_ld is {link_map.l_ld:#x}, and ld.so's {rtld.l_ld:#x}")

    def _find_in_type(self, link_map: LinkMap) -> Iterator[Doubt]:
        kind = self._expected_type(link_map)
        if kind is not None and kind != link_map.l_type and link_map.l_type in _TYPES:
            names = "the list of namespaces" if link_map.l_ns else "the main program's l_initfini"
            text = f"it is {_TYPES[kind]} by {names}"
            yield self._doubt(link_map, "l_type", f"{text} at {self._main.l_initfini:#x}" if self._main else text)

    def _expected_type(self, link_map: LinkMap) -> Optional[int]:
        """Return l_type by the other lists, None if they do not show it."""
        if link_map is self._main:
            return LT_EXECUTABLE
        if self._namespaces[link_map.address] != 0:
            return LT_LOADED
        of_kernel = is_vdso(self._process.memory, link_map)
        if link_map.address == self._process.private.rtld_map.address or of_kernel:
            return LT_LIBRARY
        if of_kernel is None or self._startup is None:
            return None
        return LT_LIBRARY if link_map.address in self._startup else LT_LOADED

    # -- the image --------------------------------------------------------------------------------------------

    def _find_in_range(self, link_map: LinkMap) -> Iterator[Doubt]:
        """Yield where a library lies elsewhere by its program headers than by the loader."""
        if self._process.has_agreeing_headers(link_map):
            return
        image = self._process.image(link_map)
        if image is not None:
            yield from self._compare_range(link_map, image.headers, image.bias)
            return
        if not link_map.l_map_start <= link_map.l_ld < link_map.l_map_end:
            text = f"l_map_start is {link_map.l_map_start:#x}, and l_map_end {link_map.l_map_end:#x}"
            yield self._doubt(link_map, "l_ld", text)
        elif not self._process.is_overwritten(link_map):
            # The link map has the address of the program headers, too.
            yield from self._compare_range(link_map, self._headers(link_map), link_map.l_addr)

    def _compare_range(self, link_map: LinkMap, headers: Sequence[ProgramHeader], bias: int) -> Iterator[Doubt]:
        mask = self._process.memory.platform.address_mask
        page = self._page
        loads = [each for each in headers if each.type == PT_LOAD]
        dynamic = next((each for each in headers if each.type == PT_DYNAMIC), None)
        if not loads or dynamic is None:
            return
        if bias != link_map.l_addr:
            yield self._doubt(link_map, "l_addr", f"by the program headers at l_map_start it is {bias:#x}")
        expected = bias + dynamic.vaddr & mask
        if link_map.l_ld != expected:
            yield self._doubt(link_map, "l_ld", f"by the program headers PT_DYNAMIC is at {expected:#x}")
        first = bias + min(each.vaddr for each in loads) & mask
        if abs(link_map.l_map_start - first) >= page or link_map.l_map_start % min(page, _DEFAULT_PAGE_SIZE):
            yield self._doubt(link_map, "l_map_start", f"by the program headers the first segment is at {first:#x}")
        last = bias + max(each.vaddr + each.memsz for each in loads) & mask
        if abs(link_map.l_map_end - last) >= page:
            yield self._doubt(link_map, "l_map_end", f"by the program headers the last segment ends at {last:#x}")

    def _headers(self, link_map: LinkMap) -> Sequence[ProgramHeader]:
        """Read the program headers at l_phdr; empty if they are not those of the library."""
        memory = self._process.memory
        start, count = link_map.field("l_phdr"), link_map.field("l_phnum")
        size = 56 if memory.pointer_size == 8 else 32
        if not start or not count:
            return ()
        data = memory.try_read(start, count * size)
        headers = parse_program_headers(data, size, memory.pointer_size == 8, memory.struct_prefix) if data else ()
        dynamic = next((each for each in headers if each.type == PT_DYNAMIC), None)
        is_own = dynamic is not None and link_map.l_addr + dynamic.vaddr & memory.platform.address_mask == link_map.l_ld
        return headers if is_own else ()

    @cached_property
    def _page(self) -> int:
        return self._process.memory.target.auxv().get(AT_PAGESZ) or _DEFAULT_PAGE_SIZE

    # -- flags and counts -------------------------------------------------------------------------------------

    def _find_in_flags(self, link_map: LinkMap) -> Iterator[Doubt]:
        if not link_map.l_relocated and link_map.field("l_init_called"):
            yield self._doubt(link_map, "l_relocated", "l_init_called is 1: constructors run after the relocation")
        if link_map.l_auditing and self._namespaces[link_map.address] == 0:
            yield self._doubt(link_map, "l_auditing", "it is in namespace 0, and auditing libraries have their own")
        elif link_map.l_auditing and self._exports(link_map, _AUDITOR) is False:
            yield self._doubt(link_map, "l_auditing", f"it does not export {_AUDITOR}, as auditing libraries do")
        if link_map.l_nodelete_pending == 1:
            text = "no dlopen runs that could make it l_nodelete_active (one that failed can leave it)"
            yield self._doubt(link_map, "l_nodelete_pending", text)
        if link_map.nodelete or not link_map.l_relocated:
            yield from self._find_in_nodelete(link_map)
            return
        member = "l_flags_1" if link_map.l_nodelete_active is None else "l_nodelete_active"
        if link_map.l_nodelete_active is not None and link_map.l_flags_1 & DF_1_NODELETE:
            yield self._doubt(link_map, member, f"l_flags_1 is {link_map.l_flags_1:#x}, which has DF_1_NODELETE")
        elif link_map.address in self._unique_owners:
            place = self._unique_owners[link_map.address]
            yield self._doubt(link_map, member, f"it has the unique symbol at {place:#x}, which makes it NODELETE")

    def _find_in_nodelete(self, link_map: LinkMap) -> Iterator[Doubt]:
        """Yield what contradicts NODELETE without a cause.

        Then it must come from RTLD_NODELETE, with which a dlclose does not lower the open count any more, or from a
        lookup in the global scope.
        """
        if (
            link_map.l_nodelete_active
            and link_map.l_direct_opencount == 0
            and self._nodelete.origin(link_map)[0] == "dlopen-flag"
        ):
            yield self._doubt(
                link_map,
                "l_nodelete_active",
                "neither l_flags_1 nor a unique symbol is the cause, and l_direct_opencount is 0, "
                "which RTLD_NODELETE would keep above 0",
            )

    @cached_property
    def _unique_owners(self) -> Mapping[int, int]:
        """Return the link maps in the tables of unique symbols, each with the address of an entry."""
        process = self._process
        owners: dict[int, int] = {}
        for namespace in process.graph.namespaces:
            try:
                owners.update(for_each_unique_owner(process.memory, process.layouts, namespace))
            except (FaultError, CorruptError):
                continue  # an answer about a symbol reports it; what is unread contradicts nothing
        return owners

    def _find_in_counts(self, link_map: LinkMap) -> Iterator[Doubt]:
        if link_map.l_direct_opencount and link_map.l_relocated and link_map.field("l_searchlist.r_list") == 0:
            text = "l_searchlist.r_list is 0: a library that was opened has one"
            yield self._doubt(link_map, "l_direct_opencount", text)
        count = link_map.l_tls_dtor_count
        if count is not None:
            found = self._destructors.get(link_map.address, 0)
            if found > count:
                seen = quantity(found, "pending destructor was", "pending destructors were")
                text = f"{seen} found in the threads' lists"
                yield self._doubt(link_map, "l_tls_dtor_count", text)
            elif count and not found and self._can_register(link_map) is False:
                text = "no thread's list has one, and it does not import __cxa_thread_atexit"
                yield self._doubt(link_map, "l_tls_dtor_count", text)

    @cached_property
    def _destructors(self) -> Mapping[int, int]:
        """Count the pending destructors of each library in the lists of the threads that glibc itself lists."""
        from ..loader.threads import find_thread_pointers
        from ..loader.tls_lists import count_destructors

        process = self._process
        libcs = [m for m in process.graph.by_address.values() if not m.is_proxy and is_libc(m.name)]
        pointers = find_thread_pointers(process.memory, process.layouts, process.graph, process.private.rtld_global, [])
        return count_destructors(process.memory, process.graph, libcs[:MAX_NAMESPACES], sorted(pointers.values()))

    # -- libraries that nothing keeps -------------------------------------------------------------------------

    def _find_unmarked(self, link_map: LinkMap) -> Iterator[Doubt]:
        """Yield what contradicts that nothing keeps a library that is still loaded.

        A close that lowers the last count collects, and only a pending TLS destructor keeps the library then.  So a
        collection has seen it, and itself or a library that needs it registers TLS destructors.
        """
        if link_map.field("l_idx") not in (_STILL_USED, None) and not link_map.field("l_map_used"):
            yield self._doubt(link_map, "l_idx", "nothing keeps it, and the last close would have set -1")
            return
        if not self._is_left_by_destructors(link_map):
            yield self._doubt(
                link_map,
                "l_direct_opencount",
                "nothing else keeps it, though it is loaded: neither it nor what needs it registers TLS destructors, "
                "which alone outlast the last close",
            )

    def _is_left_by_destructors(self, link_map: LinkMap) -> bool:
        """Return True unless it is known that a library and those that need it register no TLS destructors."""
        waiting, seen = [link_map.address], {link_map.address}
        while waiting:
            address = waiting.pop()
            if self._can_register(self._process.graph.by_address[address]) is not False:
                return True
            fresh = [each for each in self.users(address) if each not in seen]
            seen.update(fresh)
            waiting += fresh
        return False

    def users(self, address: int) -> Sequence[int]:
        """Return the libraries that need one, given by their link maps' addresses, whether they are kept or not."""
        return self._users.get(address, ())

    @cached_property
    def _users(self) -> Mapping[int, Sequence[int]]:
        """Return the libraries that need each library, whether they are kept or not."""
        users: dict[int, list[int]] = {}
        for address, link_map in self._process.graph.by_address.items():
            for needed in (*link_map.needed, *link_map.relocated_to):
                users.setdefault(needed, []).append(address)
        return users

    def _exports(self, link_map: LinkMap, name: str) -> Optional[bool]:
        """Return True if a library exports a symbol, None if that cannot be read."""
        image = self._process.image(link_map)
        try:
            return None if image is None else image.find_symbol(name) is not None
        except DlwhyError:
            return None  # contradicts nothing: only what is known not to be exported does

    def _can_register(self, link_map: LinkMap) -> Optional[bool]:
        """Return True if a library names the function that registers TLS destructors, None if that cannot be read."""
        image = self._process.image(link_map)
        try:
            start = image.dynamic_address(DT_STRTAB) if image else None
            if image is None or start is None:
                return None
            strings = image.memory.read(start, min(image.dynamic.get(DT_STRSZ, 0), _MAX_STRING_TABLE))
        except DlwhyError:
            return None  # contradicts nothing: only a library that is known not to register does
        return _REGISTRAR in strings
