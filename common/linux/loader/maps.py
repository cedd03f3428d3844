"""What does glibc's loader record about each library?

Rules only; offsets come from the layouts.  Sources: glibc's elf/dl-close.c (``_dl_close_worker``, the collector),
elf/dl-open.c, elf/dl-lookup.c (unique symbols), include/link.h, sysdeps/generic/ldsodefs.h, releases 2.17 to 2.43.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from operator import attrgetter, itemgetter
from typing import Any, Literal, NamedTuple, Optional, Union

from ...counts import quantity
from ...errors import CorruptError, FaultError
from ...lists import Walk
from ...memory import CHUNK_SIZE, Memory
from ...model import Layout, Problem
from ...structs import Structure
from ..elf.image import MAX_NAME
from ..layouts.resolve import LayoutSet
from .rendezvous import MAX_LIBRARIES, read_name
from .roots import LT_LIBRARY, LT_LOADED, RootKind

DF_1_NODELETE = 8


# Caps on counts that come from the target.
MAX_NAMESPACES = 16
#: In one list: each library is in it once.
MAX_EDGES = MAX_LIBRARIES
MAX_COUNT = 1 << 20
MAX_UNIQUE_ENTRIES = 1 << 20
_UNIQUE_AT_ONCE = 1 << 12
#: The number of entries of a list that are read at once where not all around it can be read.
_FEW = 16
MAX_DEPTH = 1 << 16

# The highest plausible value of a member.
_LIMITS = {
    "l_type": LT_LOADED,
    "l_direct_opencount": MAX_COUNT,
    "l_tls_dtor_count": MAX_COUNT,
    "l_nodelete_active": 1,
    "l_nodelete_pending": 1,
}
_CLEAR = [0, 0]
_pick_limited = attrgetter(*_LIMITS)

#: How many chunks of memory on either side of a link map are searched for one that is lost.
_SEARCHED_CHUNKS = 64

# The charge for each, in Memory's units, in addition to the bytes that are read.
_MAP_UNITS = 1000
_EDGE_UNITS = 64
_SHARED_UNITS = 16
_UNIQUE_UNITS = 100


class LinkMap:
    """A ``struct link_map`` as read, with glibc's own member names.

    The members declared here are decoded for every library on every run; all others on demand.
    """

    # Only the Optional ones can be absent, depending on glibc's version; they are None then.
    l_addr: int
    l_name: int
    l_ld: int
    l_next: int
    l_prev: int
    l_real: int
    l_ns: int
    l_direct_opencount: int
    l_flags_1: int
    l_initfini: int
    l_reldeps: int
    l_map_start: int
    l_map_end: int
    l_type: int
    l_relocated: int
    l_auditing: Optional[int]
    l_nodelete_active: Optional[int]
    l_nodelete_pending: Optional[int]
    l_tls_dtor_count: Optional[int]

    address: int
    raw: bytes
    name: str
    #: Addresses and bytes of the lists l_initfini and l_reldeps.
    edges: Sequence[tuple[int, bytes]]
    #: Addresses of the link maps in l_initfini; the first one is this link map.
    listed: tuple[int, ...]
    #: The same without the first.
    needed: tuple[int, ...]
    #: Addresses of the link maps in l_reldeps; with ``needed`` they are the collector's edges.
    relocated_to: tuple[int, ...]
    #: Its root kinds at its own open count, once `mark` has found them.
    kinds: Optional[tuple[RootKind, ...]]
    #: Its own dependencies, once they are known.
    direct: Optional[tuple[int, ...]]
    _structure: Structure
    _values: Optional[tuple[int, ...]]

    __slots__ = tuple(__annotations__)

    def __init__(self, address: int, raw: bytes, structure: Structure) -> None:
        self.address = address
        self.raw = raw
        self._structure = structure
        self._values = None
        self.name = ""
        self.edges = ()
        self.kinds = None
        self.direct = None
        self.listed = ()
        self.needed = ()
        self.relocated_to = ()

    @property
    def values(self) -> tuple[int, ...]:
        """Return all members as the structure decodes them."""
        if self._values is None:
            self._values = self._structure.decode(self.raw)
        return self._values

    @property
    def structure(self) -> Structure:
        """Return the structure that decodes all members."""
        return self._structure

    def field(self, name: str) -> Optional[int]:
        """Return a member, None if this version lacks it."""
        return self._structure.get(self.values, name)

    def field_values(self, names: Sequence[str]) -> dict[str, Optional[int]]:
        """Return several members, each None if this version lacks it."""
        return self._structure.get_all(self.values, names)

    @property
    def nodelete(self) -> bool:
        """Return True if the link map is marked NODELETE.

        Since glibc 2.31 in l_nodelete_active, before that in l_flags_1: f63b73814f74 (bug 20839) separated the state
        from the flags, f8ed116aa574 made the two members l_nodelete_*.
        """
        if self.l_nodelete_active is not None:
            return self.l_nodelete_active != 0
        return self.l_flags_1 & DF_1_NODELETE != 0

    @property
    def is_proxy(self) -> bool:
        """Return True if the link map stands for one of the base namespace, as ld.so's does in other namespaces."""
        return self.l_real != self.address

    @property
    def extent(self) -> tuple[int, int]:
        """Return the addresses of the library's mappings, start and end."""
        return self.l_map_start, self.l_map_end


#: Members that are signed in the loader's own code: l_idx is -1 if the collector kept the link map.
SIGNED = frozenset({"l_idx"})
_HOT = tuple(name for name in LinkMap.__annotations__ if name.startswith("l_"))
_REQUIRED = tuple(name for name in _HOT if LinkMap.__annotations__[name] == "int")


@cache
def _setter_of(integers: tuple[str, ...], parts: tuple[str, ...]) -> Callable[..., None]:
    """Build a function that sets a link map's members: plain integers first, then bit-fields.

    It is built from source text, as namedtuple builds its constructors: a loop of setattr takes five times as long.
    """
    targets = ["".join(f"link_map.{name}, " for name in names) for names in (integers, parts)]
    lines = ["def set_members(link_map, integers, parts):", f"({targets[0]}) = integers", f"({targets[1]}) = parts"]
    scope: dict[str, Callable[..., None]] = {}
    exec("\n    ".join(lines), scope)
    return scope["set_members"]


def is_same_library(link_map: LinkMap, other: Optional[LinkMap]) -> bool:
    """Return True if two reads of one address found the same library, not another one that was loaded there.

    Plugins of one size have their map, image and name where the one before had them: the names themselves count.  One
    that was built anew and is loaded again has also its name: the loader numbers what it loads (elf/dl-object.c).
    """
    return link_map is other or (
        other is not None
        and link_map.l_addr == other.l_addr
        and link_map.l_ld == other.l_ld
        and link_map.name == other.name
        and link_map.l_ns == other.l_ns
        and link_map.field("l_serial") == other.field("l_serial")
    )


class MapReader:
    """Reads ``struct link_map`` with one request each."""

    def __init__(self, memory: Memory, layout: Layout) -> None:
        self.memory = memory
        self.layout = layout
        self._structure = Structure(layout, memory.struct_prefix, signed=SIGNED)
        self._hot = Structure(layout, memory.struct_prefix, _HOT).require(_REQUIRED)
        places = self._hot.places
        integers = tuple(name for name in _HOT if self._hot.is_plain_integer(name))
        parts = tuple(name for name in _HOT if name not in integers)
        self._set_members = _setter_of(integers, parts)
        self._pick_integers = itemgetter(*(places[name][0] for name in integers))
        self._part_places = [places.get(name) for name in parts]
        units = [place[0] for place in self._part_places if place]
        self._pick_units: Callable[[tuple[int, ...]], Any] = itemgetter(*units) if units else lambda _: ()
        self._parts: dict[Any, tuple[Optional[int], ...]] = {}
        self._null = bytes(memory.pointer_size)
        self._order: Literal["little", "big"] = "little" if memory.struct_prefix == "<" else "big"
        #: The longer lists as they were read, and decoded, by the bytes of their first entry.
        self._lists: dict[bytes, tuple[bytes, tuple[int, ...]]] = {}

    def read(self, address: int) -> LinkMap:
        """Read a link map without its edges.

        :raises FaultError: if it cannot be read.
        """
        self.memory.spend(_MAP_UNITS, "link_map", address)
        raw = self.memory.read(address, self.layout.size)
        result = LinkMap(address, raw, self._structure)
        values = self._hot.decode(raw)
        # Nearly all libraries have the same bit-fields.
        units = self._pick_units(values)
        parts = self._parts.get(units)
        if parts is None:
            parts = tuple(each and values[each[0]] >> each[1] & each[2] for each in self._part_places)
            self._parts[units] = parts
        self._set_members(result, self._pick_integers(values), parts)
        return result

    def read_edges(self, link_map: LinkMap) -> None:
        """Read the lists of link maps that one keeps; ``edges`` has what was read even if an error follows.

        :raises FaultError: if they cannot be read.
        :raises CorruptError: if a list has no end, or a relocated library has none.
        """
        pieces: list[tuple[int, bytes]] = []
        link_map.edges = pieces
        try:
            self._read_dependencies(link_map, pieces)
        finally:
            if link_map.l_reldeps:
                link_map.relocated_to = self._read_relocation_dependencies(link_map.l_reldeps, pieces)

    def _read_dependencies(self, link_map: LinkMap, pieces: list[tuple[int, bytes]]) -> None:
        if link_map.l_initfini:
            entries = self._read_list(link_map, pieces)
            if link_map.address not in entries:
                raise CorruptError("l_initfini does not list the map itself", link_map.l_initfini)
            link_map.listed = entries
            link_map.needed = self._after_first(entries)
        elif link_map.l_type != LT_LIBRARY and link_map.l_relocated and not link_map.is_proxy:
            # _dl_map_object_deps makes the list before the library is relocated.
            raise CorruptError("l_initfini is 0, though l_relocated is 1", link_map.address)

    def read_search_list(self, link_map: LinkMap) -> Sequence[int]:
        """Read the link maps that symbols of an opened library are looked up in: itself, and all that it needs.

        They are those of l_initfini in another order (elf/dl-deps.c); empty if it was never opened itself, or the list
        is implausible.
        """
        start = link_map.field("l_searchlist.r_list")
        count = link_map.field("l_searchlist.r_nlist")
        if not start or not count or count > MAX_EDGES:
            return ()
        self.memory.spend(_EDGE_UNITS * count, "l_searchlist", start)
        entries = self.memory.try_words(start, count) or ()
        return entries if entries[:1] == (link_map.address,) else ()

    def _read_list(self, link_map: LinkMap, pieces: list[tuple[int, bytes]]) -> tuple[int, ...]:
        """Read l_initfini.

        In a chain of libraries that were all opened, each has its own address before the list of the next one, which
        is then neither decoded nor kept again.
        """
        word = self.memory.pointer_size
        raw = self._read_null_terminated(link_map.l_initfini, pieces)
        own, first = raw[:word], raw[word : 2 * word]
        known_raw, known = self._lists.get(first, (b"", ()))
        count = len(raw) // word - 1
        if count > _FEW and raw[word:] == known_raw:
            self.memory.spend(_SHARED_UNITS * count, "l_initfini", link_map.l_initfini)
            entries = (int.from_bytes(own, self._order), *known)
        else:
            self.memory.spend(_EDGE_UNITS * count, "l_initfini", link_map.l_initfini)
            entries = struct.unpack(f"{self.memory.struct_prefix}{count}{self.memory.pointer_code}", raw[:-word])
        if count >= _FEW:
            self._lists[own] = raw, entries
        return entries

    def _after_first(self, entries: tuple[int, ...]) -> tuple[int, ...]:
        """Return the entries after the first: the next library's own list, if they are that."""
        if len(entries) > _FEW:
            _, known = self._lists.get(entries[1].to_bytes(self.memory.pointer_size, self._order), (b"", ()))
            if entries[1:] == known:
                return known
        return entries[1:]

    def forget_lists(self) -> None:
        """Forget what was read: it is used while all lists of a process are read."""
        self._lists.clear()

    def _read_null_terminated(self, address: int, pieces: list[tuple[int, bytes]]) -> bytes:
        place, parts = address, [b""]
        end = address + MAX_EDGES * self.memory.pointer_size
        try:
            while place < end:
                parts.append(self._read_to_null(place))
                if parts[-1].endswith(self._null):
                    return b"".join(parts)
                place += len(parts[-1])
        finally:
            pieces.append((address, b"".join(parts)))
        raise CorruptError("l_initfini without end", place)

    def _read_to_null(self, address: int) -> bytes:
        """Read words up to and with one that is 0, or as many as are read at once.

        :raises FaultError: if the first cannot be read.
        """
        word = self.memory.pointer_size
        chunk, inside = self.memory.chunk(address), address % CHUNK_SIZE
        if chunk is None or address % word:
            chunk, inside = self.memory.try_read(address, _FEW * word) or self.memory.read(address, word), 0
        end = chunk.find(self._null, inside)
        while end >= 0 and (end - inside) % word:
            end = chunk.find(self._null, end + 1)
        return chunk[inside : end + word] if end >= 0 else chunk[inside:]

    def _read_relocation_dependencies(self, address: int, pieces: list[tuple[int, bytes]]) -> tuple[int, ...]:
        # struct link_map_reldeps { unsigned int act; struct link_map *list[]; }
        count = self.memory.unsigned(address, 4)
        if count > MAX_EDGES:
            raise CorruptError(f"{count} relocation dependencies", address)
        word = self.memory.pointer_size
        self.memory.spend(_EDGE_UNITS * count, "l_reldeps", address)
        pieces.append((address, self.memory.read(address, word * (count + 1))))
        return self.memory.words(address + word, count)


class Namespace(NamedTuple):
    """A namespace: its number, the address of its ``struct link_namespaces``, and its link maps in list order."""

    number: int
    address: int
    maps: tuple[LinkMap, ...]


class Doubt(NamedTuple):
    """A member of a link map that something else in the process contradicts, and both values in words."""

    member: str
    text: str


class Graph:
    """All libraries of all namespaces.

    ``heads`` are the addresses and bytes of the list heads, ``strays`` are link maps that were read but cannot be
    where they were found.  ``complete`` is False if a list could not be followed: then a library that nothing seems to
    keep may be kept by one that was not read.  ``doubts`` are the contradictions met on the way, by the address of the
    link map.
    """

    def __init__(self, heads: Sequence[tuple[int, bytes]] = ()) -> None:
        self.heads = heads
        self.namespaces: list[Namespace] = []
        self.by_address: dict[int, LinkMap] = {}
        self.strays: list[LinkMap] = []
        self.problems: list[Problem] = []
        self.doubts: dict[int, list[Doubt]] = {}
        #: By the address of the link map: why its lists could not be read.
        self.unread_edges: dict[int, Doubt] = {}
        #: Where the mappings of libraries begin, in order, and the addresses of their link maps; None until wanted.
        self._places: Optional[tuple[list[int], list[int]]] = None

    @property
    def pieces(self) -> Sequence[tuple[int, bytes]]:
        """Return all addresses and bytes that the graph was read from."""
        maps = (*self.by_address.values(), *self.strays)
        return [*self.heads, *(piece for m in maps for piece in ((m.address, m.raw), *m.edges))]

    @property
    def structure(self) -> Structure:
        """Return the structure that decodes all members of its link maps."""
        return next(iter(self.by_address.values())).structure

    def find_map(self, address: int) -> Optional[LinkMap]:
        """Find the library whose mappings contain an address."""
        if self._places is None:
            maps = sorted((m for m in self.by_address.values() if not m.is_proxy), key=attrgetter("l_map_start"))
            self._places = [link_map.l_map_start for link_map in maps], [link_map.address for link_map in maps]
        starts, addresses = self._places
        index = bisect_right(starts, address) - 1
        found = self.by_address[addresses[index]] if index >= 0 else None
        return found if found is not None and address < found.l_map_end else None

    def take_places(self, before: Graph, gone: Iterable[LinkMap], fresh: Iterable[LinkMap]) -> None:
        """Compute where the mappings are from those of an earlier graph, if they are known there.

        :param gone: the link maps of that graph that are not in this one.
        :param fresh: those of this one that are not in that one.
        """
        if before._places is None:
            return
        starts, addresses = map(list, before._places)
        for link_map in gone:
            if not link_map.is_proxy:
                index = addresses.index(link_map.address)
                del starts[index], addresses[index]
        for link_map in fresh:
            if not link_map.is_proxy:
                index = bisect_right(starts, link_map.l_map_start)
                starts.insert(index, link_map.l_map_start)
                addresses.insert(index, link_map.address)
        self._places = starts, addresses

    def replaced(self, fresh: Sequence[LinkMap]) -> Graph:
        """Return the graph with some link maps read again, which are where they were in the lists."""
        graph = Graph(self.heads)
        graph.by_address = dict(self.by_address)
        graph.namespaces = list(self.namespaces)
        for link_map in fresh:
            before = self.by_address[link_map.address]
            graph.by_address[link_map.address] = link_map
            for index, (number, address, maps) in enumerate(graph.namespaces):
                if before in maps:
                    at = maps.index(before)
                    graph.namespaces[index] = Namespace(number, address, (*maps[:at], link_map, *maps[at + 1 :]))
        return graph

    @property
    def complete(self) -> bool:
        """Return True if every library was read."""
        return not self.problems

    def doubt(self, link_map: LinkMap, member: str, text: str) -> None:
        """Record that a member of a link map is contradicted."""
        self.doubts.setdefault(link_map.address, []).append(Doubt(member, text))

    def is_unchanged(self, memory: Memory) -> bool:
        """Return True if memory still holds the bytes that the graph was read from.

        :raises FaultError: if they cannot be read any more.
        """
        return all(memory.read(address, len(raw)) == raw for address, raw in self.pieces)


class Head(NamedTuple):
    """The head of a namespace's list: number, ``struct link_namespaces``, first link map, number of link maps.

    ``first`` is 0 in an empty list, ``loaded`` is None if this version does not count the link maps.
    """

    number: int
    address: int
    first: int
    loaded: Optional[int]


class Heads(NamedTuple):
    """The heads of all namespaces' lists, and the addresses and bytes they were read from."""

    lists: tuple[Head, ...]
    pieces: tuple[tuple[int, bytes], ...]


def read_graph(memory: Memory, layouts: LayoutSet, rtld_global: int) -> Graph:
    """Read the link maps of all namespaces.

    :raises FaultError: if _rtld_global itself cannot be read.
    :raises CorruptError: if the number of namespaces is implausible.
    """
    return GraphReader(memory, layouts, rtld_global).read(memory)


class GraphReader:
    """Reads the link maps of all namespaces."""

    def __init__(self, memory: Memory, layouts: LayoutSet, rtld_global: int) -> None:
        self.maps = MapReader(memory, layouts.require("link_map"))
        self._namespace = layouts.require("link_namespaces")
        self._structure = Structure(self._namespace, memory.struct_prefix)
        outer = layouts.require("rtld_global").fields
        count = outer.get("_dl_load_adds")
        self._loads = None if count is None else (rtld_global + count.offset, count.size)
        self._count = (rtld_global + outer["_dl_nns"].offset, outer["_dl_nns"].size)
        self._first = rtld_global + outer["_dl_ns"].offset

    def read(self, memory: Memory) -> Graph:
        """Read all link maps.

        :raises FaultError: if _rtld_global itself cannot be read.
        :raises CorruptError: if the number of namespaces is implausible.
        """
        self.maps.memory = memory
        self.maps.forget_lists()
        heads = self.read_heads()
        graph = Graph(heads.pieces)
        for number, address, first, loaded in heads.lists:
            if not first and loaded:
                message = f"_ns_nloaded is {loaded}, but the list is empty"
                graph.problems.append(Problem(f"namespace {number}", message))
            if first:
                maps = tuple(_ListReader(self.maps, graph, loaded).follow(first))
                if graph.complete and loaded != len(maps):
                    message = f"_ns_nloaded is {loaded}, the list has {quantity(len(maps), 'library')}"
                    graph.problems.append(Problem(f"namespace {number}", message))
                graph.namespaces.append(Namespace(number, address, maps))
        _check_edges(graph, self.maps)
        for link_map in graph.by_address.values():
            link_map.name = read_name(memory, link_map.l_name)
        return graph

    def read_load_count(self) -> Optional[int]:
        """Read _dl_load_adds, which counts each link map that is put into a list (elf/dl-object.c); None if unknown."""
        return None if self._loads is None else self.maps.memory.try_unsigned(*self._loads)

    def read_heads(self) -> Heads:
        """Read the list heads of all namespaces.

        :raises FaultError: if they cannot be read.
        :raises CorruptError: if the number of namespaces is implausible.
        """
        memory = self.maps.memory
        count = memory.unsigned(*self._count)
        if not 1 <= count <= MAX_NAMESPACES:
            raise CorruptError(f"_dl_nns is {count}", self._count[0])
        places = [self._count]
        lists = []
        for number in range(count):
            address = self._first + number * self._namespace.size
            values = self._structure.decode(memory.read(address, self._namespace.size))
            members = (self._namespace.fields.get(name) for name in ("_ns_loaded", "_ns_nloaded"))
            places += [(address + member.offset, member.size) for member in members if member is not None]
            first = self._structure.get(values, "_ns_loaded") or 0
            lists.append(Head(number, address, first, self._structure.get(values, "_ns_nloaded")))
        return Heads(tuple(lists), tuple((address, memory.read(address, size)) for address, size in places))


def _check_edges(graph: Graph, reader: MapReader) -> None:
    """Record a doubt about each link map whose lists are damaged, and a problem if its needs are then unknown."""
    there = set(graph.by_address)
    is_whole = graph.complete
    for address, link_map in graph.by_address.items():
        damage = graph.unread_edges.get(address)
        if damage is None and not (there.issuperset(link_map.needed) and there.issuperset(link_map.relocated_to)):
            member = "l_reldeps" if there.issuperset(link_map.needed) else "l_initfini"
            unknown = next(a for a in (*link_map.needed, *link_map.relocated_to) if a not in there)
            damage = Doubt(member, f"{member} has {unknown:#x}, which is no library")
            if not is_whole:  # it can be one of those that were not read
                graph.problems.append(Problem(f"link_map {address:#x}", damage.text))
                continue
        if damage is None:
            continue
        graph.doubt(link_map, *damage)
        entries = reader.read_search_list(link_map) if damage.member == "l_initfini" else ()
        if entries and there.issuperset(entries):
            link_map.listed, link_map.needed = tuple(entries), tuple(entries[1:])
        else:
            message = f"what it depends on is not known: {damage.text}"
            graph.problems.append(Problem(f"link_map {address:#x}", message))


_ReadError = Union[FaultError, CorruptError]


class _ListReader:
    """Follows the list of a namespace; a single damaged link does not end it.

    Each link is stored twice, in l_next of one link map and l_prev of the next.  Where the two disagree, the libraries
    around decide which is right: it is recorded as a doubt about the other one's library.
    """

    def __init__(self, reader: MapReader, graph: Graph, loaded: Optional[int]) -> None:
        """Create a reader of one list.

        :param loaded: the number of link maps by the list's head, None if it is not counted.
        """
        self._reader = reader
        self._graph = graph
        self._loaded = loaded
        self._before: Optional[LinkMap] = None
        self._count = 0

    def follow(self, head: int) -> Sequence[LinkMap]:
        """Follow the list; record in ``graph.problems`` where and why it ends early."""
        graph = self._graph
        taken = len(graph.by_address)
        walk = Walk(head, self._read, limit=MAX_LIBRARIES, taken=taken, subject="the list", noun="library")
        maps = walk.all()
        reason = f"{walk.error}: this library and those after it are not known" if walk.error else walk.reason
        if reason is not None:
            graph.problems.append(Problem(f"link_map {walk.address:#x}", reason))
        return maps

    def _read(self, address: int, previous: int) -> tuple[LinkMap, int]:
        graph = self._graph
        if self._before is not None:
            previous = self._before.address
        link_map, objection = self._read_next(address, previous)
        if objection is not None:
            found = self._find_successor(previous) if self._before is not None else None
            if found is not None and self._before is not None:
                self._doubt_next(self._before, found)
                link_map = found
            elif link_map is None or not self._is_in_list(link_map):
                if link_map is not None:
                    graph.strays.append(link_map)
                raise objection
            else:
                text = f"l_prev is {link_map.l_prev:#x}, but l_next of {previous:#x} is {link_map.address:#x}"
                if not previous:
                    text = f"l_prev is {link_map.l_prev:#x}, but it is the first of its list"
                graph.doubt(link_map, "l_prev", text)
        assert link_map is not None
        self._take(link_map)
        return link_map, self._following(link_map)

    def _read_next(self, address: int, previous: int) -> tuple[Optional[LinkMap], Optional[_ReadError]]:
        """Read a link map; also return why it cannot follow the previous one, None if it can."""
        if address in self._graph.by_address:
            return None, CorruptError(f"the list runs into {address:#x} again, or into that of another namespace")
        try:
            link_map = self._reader.read(address)
        except FaultError as error:
            return None, error
        objection = find_link_error(link_map, previous)
        return link_map, None if objection is None else CorruptError(objection)

    def _take(self, link_map: LinkMap) -> None:
        graph = self._graph
        try:
            self._reader.read_edges(link_map)
        except (FaultError, CorruptError) as error:
            # l_initfini is read first.
            member = "l_initfini" if not link_map.listed else "l_reldeps"
            graph.unread_edges[link_map.address] = Doubt(member, str(error))
        for member, text in find_implausible(link_map):
            graph.doubt(link_map, member, text)
        graph.by_address[link_map.address] = link_map
        self._before = link_map
        self._count += 1

    def _following(self, link_map: LinkMap) -> int:
        """Return the next link map's address: at an end or loop that comes too early, of the one that points back."""
        is_end = not link_map.l_next or link_map.l_next in self._graph.by_address
        if not is_end or self._loaded is None or self._count >= min(self._loaded, MAX_LIBRARIES):
            return link_map.l_next
        found = self._find_successor(link_map.address)
        if found is None:
            return link_map.l_next
        self._doubt_next(link_map, found)
        return found.address

    def _doubt_next(self, link_map: LinkMap, found: LinkMap) -> None:
        text = f"l_next is {link_map.l_next:#x}, but l_prev of {found.address:#x} is {link_map.address:#x}"
        self._graph.doubt(link_map, "l_next", text)

    def _is_in_list(self, link_map: LinkMap) -> bool:
        """Return True if a link map is in the list by those behind it: the next one points back, or it is the last."""
        if not self._is_likely(link_map):
            return False
        if not link_map.l_next:
            return self._loaded == self._count + 1
        try:
            return self._reader.read(link_map.l_next).l_prev == link_map.address
        except FaultError:
            return False  # not taken for one of the list, which then ends too early: a problem of the graph

    def _find_successor(self, address: int) -> Optional[LinkMap]:
        """Find the link map whose l_prev is an address; the loader allocates them near one another."""
        memory = self._reader.memory
        word = address.to_bytes(memory.pointer_size, "little" if memory.struct_prefix == "<" else "big")
        shift = self._reader.layout.fields["l_prev"].offset
        for place in _for_each_place(memory, address, word):
            if place - shift in self._graph.by_address or not memory.spend(_MAP_UNITS, "libraries behind", address):
                continue
            try:
                link_map = self._reader.read(place - shift)
            except FaultError:
                continue  # a place that is no link map; if none is found, the list stays too short, which is reported
            # The memory of a library that is gone can still hold its link map.
            if link_map.l_prev == address and self._is_in_list(link_map):
                return link_map
        return None

    def _is_likely(self, link_map: LinkMap) -> bool:
        """Return True if memory has the form of a link map of this list: lists of link maps hold addresses, too."""
        if self._before is not None and link_map.l_ns != self._before.l_ns:
            return False
        if link_map.is_proxy:
            return link_map.l_real in self._graph.by_address
        has_range = link_map.l_map_start <= link_map.l_ld < link_map.l_map_end
        return has_range and not find_implausible(link_map)


def _for_each_place(memory: Memory, address: int, word: bytes) -> Iterator[int]:
    """Yield the places near an address that hold a word, the nearest chunk first."""
    first = address - address % CHUNK_SIZE
    for distance in range(_SEARCHED_CHUNKS):
        for start in dict.fromkeys((first + distance * CHUNK_SIZE, first - distance * CHUNK_SIZE)):
            data = memory.try_read(start, CHUNK_SIZE) if start >= 0 else None
            at = -1 if data is None else data.find(word)
            while data is not None and at >= 0:
                if at % len(word) == 0:
                    yield start + at
                at = data.find(word, at + 1)


def find_link_error(link_map: LinkMap, previous: int) -> Optional[str]:
    """Return why a link map cannot follow the previous one, None if it can."""
    if link_map.l_prev != previous:
        return f"l_prev is {link_map.l_prev:#x}, not {previous:#x}: the list is damaged here"
    implausible = find_implausible(link_map)
    if len(implausible) > 1:
        return f"{', '.join(text for _, text in implausible)}: this library and those after it are not known"
    return None


def find_implausible(link_map: LinkMap) -> Sequence[tuple[str, str]]:
    """Return the implausible members of a link map, each with its value in words; not the loader's of proxies."""
    kind, count, destructors, *flags = values = _pick_limited(link_map)
    is_plain = kind <= LT_LOADED and count <= MAX_COUNT and not destructors and flags == _CLEAR
    if is_plain or link_map.l_real != link_map.address:
        return ()
    limited = zip(_LIMITS, _LIMITS.values(), values)
    return [(name, f"{name} is {value}") for name, limit, value in limited if value is not None and value > limit]


class LoadLock(NamedTuple):
    """The state of the loader's lock ``_dl_load_lock``, which dlopen, dlclose, dlsym, dladdr and dl_iterate_phdr take.

    ``owner`` is the kernel's id of the thread that holds it, None if it is free or unknown; ``depth`` is how many
    nested opens and closes that thread is in.  Until glibc 2.33 (d6163dfd3831) a process without libpthread has no
    owner.  ``is_known`` is False if the lock cannot be read.
    """

    owner: Optional[int]
    depth: int = 0
    is_known: bool = True

    @property
    def is_held(self) -> bool:
        """Return True if a thread holds the lock, or the lock counts opens and closes."""
        return self.owner is not None or self.depth > 0


def read_load_lock(memory: Memory, layouts: LayoutSet, rtld_global: int) -> LoadLock:
    """Read the state of ``_dl_load_lock``."""
    member = layouts.require("rtld_global").fields.get("_dl_load_lock")
    if member is None:
        return LoadLock(None, is_known=False)
    # pthread_mutex_t begins {int lock; unsigned count; int owner} on every architecture.
    raw = memory.try_read(rtld_global + member.offset, 12)
    if raw is None:
        return LoadLock(None, is_known=False)
    lock, count, owner = struct.unpack(memory.struct_prefix + "IIi", raw)
    return LoadLock(owner if lock and owner > 0 else None, count if count < MAX_DEPTH else 0)


class UniqueSymbol(NamedTuple):
    """An entry of a namespace's STB_GNU_UNIQUE table: mangled name, or why it was not read; the owner's link map."""

    name: str
    owner: int


def _read_symbol_name(memory: Memory, address: int) -> str:
    """Read a symbol's name; if that fails, return the reason."""
    try:
        return memory.c_string(address, MAX_NAME)
    except CorruptError:
        return f"(a name of more than {MAX_NAME} bytes)"
    except FaultError:
        return "(name not in memory)"


def for_each_unique_symbol(memory: Memory, layouts: LayoutSet, namespace: Namespace) -> Iterator[UniqueSymbol]:
    """Yield the STB_GNU_UNIQUE symbols that a lookup has bound in a namespace.

    :raises FaultError: if the table cannot be read.
    :raises CorruptError: if its size is implausible.
    """
    for _, name, owner in _for_each_unique_entry(memory, layouts, namespace):
        yield UniqueSymbol(_read_symbol_name(memory, name), owner)


def for_each_unique_owner(memory: Memory, layouts: LayoutSet, namespace: Namespace) -> Iterator[tuple[int, int]]:
    """Yield the link map that owns each of these symbols, and the address of the symbol's entry.

    :raises FaultError: if the table cannot be read.
    :raises CorruptError: if its size is implausible.
    """
    for place, _, owner in _for_each_unique_entry(memory, layouts, namespace):
        yield owner, place


def _for_each_unique_entry(memory: Memory, layouts: LayoutSet, namespace: Namespace) -> Iterator[tuple[int, int, int]]:
    """Yield the address of each entry in use, and the addresses of its name and its owner."""
    names = layouts.require("link_namespaces").fields
    entries_at = names.get("_ns_unique_sym_table.entries")
    size_at = names.get("_ns_unique_sym_table.size")
    if entries_at is None or size_at is None:
        return
    entries = memory.pointer(namespace.address + entries_at.offset)
    size = memory.pointer(namespace.address + size_at.offset)
    if entries == 0:
        return
    if size > MAX_UNIQUE_ENTRIES:
        raise CorruptError(f"unique symbol table of {size} entries", namespace.address + size_at.offset)
    # struct unique_sym { uint32_t hashval; const char *name; const ElfW(Sym) *sym; const struct link_map *map; }
    step = 4 * memory.pointer_size
    for first in range(0, size, _UNIQUE_AT_ONCE):
        words = memory.words(entries + first * step, 4 * min(_UNIQUE_AT_ONCE, size - first))
        for index, (name, owner) in enumerate(zip(words[1::4], words[3::4]), first):
            if name:
                memory.spend(_UNIQUE_UNITS, f"unique symbols of namespace {namespace.number}")
                yield entries + index * step, name, owner
