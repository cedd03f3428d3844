"""What must be built or opened otherwise for a library that stays for good to be unloaded at its close?

All holds that never end are lifted one after the other, each by the least that lifts it, and each time the mark phase
runs again over the process as it would be then: what is named is everything that is needed, and it is enough.  What is
NODELETE is no target of relocation dependencies (``add_dependency`` of glibc's elf/dl-lookup.c records none), so those
that would be recorded otherwise are looked for where the mark is lifted.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

from ...errors import DlwhyError
from ...graph import Search
from ..elf.image import ElfImage
from ..loader.collector import mark
from ..loader.maps import DF_1_NODELETE, Graph, LinkMap, Namespace
from ..loader.roots import LT_EXECUTABLE, LT_LOADED
from ..rebuild_model import Fix, FixKind, Hiding, Obstacle, ObstacleKind, Rebuild
from .mark_phase import MarkPhase
from .nodelete import NodeleteOrigins, without_guards
from .process import GlibcProcess
from .symbols import demangled

#: At most this many holds are lifted, and this many symbols named for each library.
MAX_LIFTED = 64
MAX_NAMED = 16
_MAX_DEMANGLED = 256

# Costs in Memory's units: of a library and of each of its edges, each time the mark phase runs again.
_MARK_UNITS = 30
_EDGE_UNITS = 4
_WHAT = "what would let a library go"

#: The linker's own folders: who finds his library kept by one that lies there does not build that one.
_SYSTEM = re.compile(r"(/usr)?/lib(32|64|x32)?(/[a-z0-9_]+-linux-[a-z0-9]+)?/[^/]+")
#: Linked with -z nodelete on purpose: exit handlers, thread keys, or threads of theirs would outlive them.
_ON_PURPOSE = (
    "libcrypto.so",
    "libssl.so",
    "libglib-2.0.so",
    "libgobject-2.0.so",
    "libgio-2.0.so",
    "libgmodule-2.0.so",
    "libgthread-2.0.so",
    "libgstreamer-1.0.so",
    "libp11-kit.so",
    "libpulse",
    "libLLVM",
    "liblldb",
    "libclang",
    "libLTO.so",
    "librt.so",
)
#: The name of Go's notes, and the library that programs of gccgo need.
_GO_NOTE, _GCCGO = b"Go", "libgo.so."
#: Names of std:: as the linker has them: functions, variables, guard variables, and what is within them.
_OF_STD = re.compile(r"_Z(?:GV|GR|T[VTIS])?Z*(?:N[rVK]*)?(?:S[tabsiod]|9__gnu_cxx)")


class _Bound(NamedTuple):
    """The symbols of a library that pin it, as the linker has them, and the libraries that are bound to some."""

    unique: set[str]
    bound: set[str]
    holders: dict[str, None]


def find_rebuild(
    process: GlibcProcess, kept: MarkPhase, nodelete: NodeleteOrigins, link_map: LinkMap
) -> Optional[Rebuild]:
    """Return what would let a library go; None if it was loaded at start, or if nothing keeps it for good.

    None also if only a thread that does not exist does: no build changes that.
    """
    namespace = process.namespaces.get(link_map.l_ns)
    if link_map.l_type != LT_LOADED or link_map.is_proxy or namespace is None:
        return None
    if link_map.address not in kept.from_permanent.before:
        return None
    found = _Attempt(process, nodelete, namespace, link_map).run()
    return found if found.fixes or found.obstacle else None


class _Attempt:
    """One library, and what has been lifted for its sake so far."""

    def __init__(
        self, process: GlibcProcess, nodelete: NodeleteOrigins, namespace: Namespace, link_map: LinkMap
    ) -> None:
        self._process = process
        self._nodelete = nodelete
        self._namespace = namespace
        self._link_map = link_map
        self._freed: set[int] = set()
        # Relocation dependencies that would not be there, and those that would: by holder.
        self._cut: dict[int, set[int]] = {}
        self._added: dict[int, set[int]] = {}
        self._hidden: dict[int, _Bound] = {}
        self._fixes: dict[tuple[FixKind, int], Fix] = {}

    def run(self) -> Rebuild:
        """Remove holds until the mark phase does not keep the library, or one cannot be removed."""
        obstacle: Optional[Obstacle] = None
        for _ in range(MAX_LIFTED):
            if not self._spend():
                obstacle = self._obstacle(ObstacleKind.TOO_MUCH, self._link_map)
                break
            path = self._path()
            if not path:
                break
            obstacle = self._lift(path)
            if obstacle is not None:
                break
        else:
            obstacle = self._obstacle(ObstacleKind.TOO_MUCH, self._link_map)
        hidden = (self._hide(self._map(address), found) for address, found in self._hidden.items())
        return Rebuild((*hidden, *self._fixes.values()), obstacle)

    def _map(self, address: int) -> LinkMap:
        return self._process.graph.by_address[address]

    # -- the process as it would be -------------------------------------------------------------------------------

    def _path(self) -> Sequence[int]:
        """Run the mark phase without what is lifted: return the path to the library from a root, empty without one."""
        graph, namespace = self._as_it_would_be()
        opens = {m.address: 0 for m in namespace.maps if not m.l_auditing}
        roots = [address for address, kinds in mark(namespace, graph, self._process.rules, opens).items() if kinds]

        def kept_by(address: int) -> Sequence[int]:
            each = graph.by_address[address]
            return [other for other in (*each.needed, *each.relocated_to) if other in graph.by_address]

        # The nearest root first, and it is found from the library itself if that is one.
        roots.sort(key=lambda address: address != self._link_map.address)
        search = Search(roots, kept_by)
        for _ in search:
            if self._link_map.address in search.before:
                return search.path(self._link_map.address)
        return ()

    def _as_it_would_be(self) -> tuple[Graph, Namespace]:
        graph = Graph()
        graph.by_address = dict(self._process.graph.by_address)
        for each in self._namespace.maps:
            graph.by_address[each.address] = self._changed(each)
        maps = tuple(graph.by_address[each.address] for each in self._namespace.maps)
        return graph, self._namespace._replace(maps=maps)

    def _spend(self) -> bool:
        """Charge one more mark phase; return False if the budget is spent."""
        maps = self._namespace.maps
        edges = sum(len(each.needed) + len(each.relocated_to) for each in maps)
        edges += sum(map(len, self._added.values()))
        return self._process.memory.spend(_MARK_UNITS * len(maps) + _EDGE_UNITS * edges, _WHAT)

    def _changed(self, link_map: LinkMap) -> LinkMap:
        """Return a link map without its destructors, its mark if that is lifted, and its lifted dependencies."""
        address = link_map.address
        cut = self._cut.get(address, set())
        added = self._added.get(address, set()) - cut
        if not (cut or added or address in self._freed or link_map.l_tls_dtor_count):
            return link_map
        changed = copy.copy(link_map)
        changed.kinds = None
        changed.relocated_to = (*(each for each in link_map.relocated_to if each not in cut), *added)
        if link_map.l_tls_dtor_count:
            changed.l_tls_dtor_count = 0
        if address in self._freed:
            changed.l_flags_1 &= ~DF_1_NODELETE
            changed.l_nodelete_active = None if link_map.l_nodelete_active is None else 0
        return changed

    # -- what lifts a hold ----------------------------------------------------------------------------------------

    def _lift(self, path: Sequence[int]) -> Optional[Obstacle]:
        """Remove a hold by the least that does; return what cannot be removed."""
        edges = list(zip(path, path[1:]))
        for holder, held in reversed(edges):
            if held not in self._map(holder).needed and self._unbind(self._map(holder), self._map(held)):
                return None
        for holder, held in reversed(edges):
            if held not in self._map(holder).needed and self._is_looked_up(self._map(holder), self._map(held)):
                self._cut.setdefault(holder, set()).add(held)
                self._note_open(FixKind.OPEN_LOCALLY, self._map(held), self._map(holder))
                return None
        root = self._map(path[0])
        if root.l_type != LT_LOADED:
            return self._open_locally(edges, root)
        if root.l_auditing:
            return self._obstacle(ObstacleKind.AUDIT, root)
        return self._free(root)

    def _unbind(self, holder: LinkMap, held: LinkMap) -> bool:
        """Remove the symbols that one library is bound to in another; return False if it could not do without."""
        names = self._process.bindings.symbols_into(holder, held)
        if not names or self._stays_as_it_is(held, "bound") or not self._can_do_without(holder, held):
            return False
        self._cut.setdefault(holder.address, set()).add(held.address)
        found = self._hidden.setdefault(held.address, _Bound(set(), set(), {}))
        found.bound.update(names)
        found.holders[self._process.name(holder)] = None
        return True

    def _is_looked_up(self, holder: LinkMap, held: LinkMap) -> bool:
        """Return True if a library found another in the global scope by dlsym, which leaves no relocation."""
        bindings = self._process.bindings.of(holder)
        if bindings is None or not bindings.is_complete or not held.field("l_global"):
            return False
        return not bindings.count_into(*held.extent)

    def _can_do_without(self, holder: LinkMap, held: LinkMap) -> bool:
        """Return True if each symbol that a library has from another is also defined by itself or by a third one."""
        bindings = self._process.bindings.of(holder)
        missing = set(bindings.undefined_into(*held.extent)) if bindings is not None else set()
        if not missing:
            return True
        by_address = self._process.graph.by_address
        scope = [m for m in self._namespace.maps if m.l_type != LT_LOADED]
        scope += [by_address[address] for address in holder.needed if address in by_address]
        for other in scope:
            image = None if other is held or other.is_proxy else self._process.image(other)
            if image is not None:
                missing = {name for name in missing if not _defines(image, name)}
        return not missing

    def _open_locally(self, edges: Sequence[tuple[int, int]], root: LinkMap) -> Optional[Obstacle]:
        """Remove what a start-up library found in the global scope; return an obstacle if it was not there."""
        for holder, held in reversed(edges):
            if held not in self._map(holder).needed and self._map(held).field("l_global"):
                self._cut.setdefault(holder, set()).add(held)
                self._note_open(FixKind.OPEN_LOCALLY, self._map(held), self._map(holder))
                return None
        is_program = root.l_type == LT_EXECUTABLE
        return self._obstacle(ObstacleKind.MAIN_PROGRAM if is_program else ObstacleKind.STARTUP, root)

    def _note_open(self, kind: FixKind, held: LinkMap, holder: Optional[LinkMap] = None) -> None:
        before = self._fixes.get((kind, held.address), Fix(kind, self._process.name(held)))
        if holder is not None:
            names = _named(self._process, self._process.bindings.symbols_into(holder, held))
            names = list(dict.fromkeys((*before.symbols, *names)))
            holders = tuple(dict.fromkeys((*before.bound_by, self._process.name(holder))))
            more = before.symbols_omitted + max(0, len(names) - MAX_NAMED)
            before = before._replace(symbols=tuple(names[:MAX_NAMED]), symbols_omitted=more, bound_by=holders)
        self._fixes[kind, held.address] = before

    def _free(self, root: LinkMap) -> Optional[Obstacle]:
        """Remove a NODELETE mark; return an obstacle if the library should keep it, or cannot be built otherwise."""
        name = self._process.name(root)
        for origin, symbols in self._nodelete.for_each_origin(root):
            if origin is None:
                return self._obstacle(ObstacleKind.UNREAD, root)
            obstacle = self._stays_as_it_is(root, origin)
            if obstacle is not None:
                return obstacle
            if origin == "elf-flag":
                self._fixes[FixKind.LINK_WITHOUT_NODELETE, root.address] = Fix(FixKind.LINK_WITHOUT_NODELETE, name)
            elif origin == "unique-symbol":
                self._hidden.setdefault(root.address, _Bound(set(), set(), {})).unique.update(symbols)
            elif origin == "dlopen-flag":
                self._note_open(FixKind.OPEN_WITHOUT_NODELETE, root)
            elif origin == "dlopen-flag-or-dlsym":
                self._note_open(FixKind.OPEN_LOCALLY_WITHOUT_NODELETE, root)
        self._freed.add(root.address)
        for holder in self._may_be_bound_to(root):
            known = (*holder.needed, *holder.relocated_to)
            if root.address not in known and self._process.bindings.symbols_into(holder, root):
                self._added.setdefault(holder.address, set()).add(root.address)
        return None

    def _may_be_bound_to(self, link_map: LinkMap) -> Iterator[LinkMap]:
        """Yield the libraries in whose scope a library is: those opened together with it, or all if it is global."""
        together: set[int] = set()
        for each in self._namespace.maps:
            if link_map.address in each.listed:
                together.update(each.needed)
        is_global = bool(link_map.field("l_global"))
        for each in self._namespace.maps:
            if each is not link_map and not each.is_proxy and (is_global or each.address in together):
                yield each

    def _stays_as_it_is(self, link_map: LinkMap, origin: str) -> Optional[Obstacle]:
        """Return a library that should not be unloaded, or that who asks does not build; None for others."""
        if origin not in ("elf-flag", "unique-symbol", "bound"):
            return None
        name = self._process.name(link_map)
        if self._is_go(link_map):
            return Obstacle(ObstacleKind.GO_RUNTIME, name)
        if origin == "elf-flag" and name.startswith(_ON_PURPOSE):
            return Obstacle(ObstacleKind.ON_PURPOSE, name)
        if origin == "elf-flag" and self._has_threads(link_map):
            return Obstacle(ObstacleKind.THREADS, name)
        if _SYSTEM.fullmatch(self._process.path(link_map) or ""):
            return Obstacle(ObstacleKind.SYSTEM, name)
        return None

    def _has_threads(self, link_map: LinkMap) -> bool:
        """Return True if threads other than the main one certainly are in a library's code."""
        from ..loader.frames import find_positions  # few libraries are linked with -z nodelete

        process = self._process
        positions = find_positions(process.memory, process.graph, process.image, [link_map])
        own = (each for each in positions.known if each.thread.lwp != process.memory.target.pid)
        return any(link_map.address in each.certain for each in own)

    def _is_go(self, link_map: LinkMap) -> bool:
        image = self._process.image(link_map)
        try:
            return image is not None and (
                image.has_note_of(_GO_NOTE) or any(name.startswith(_GCCGO) for name in image.read_needed())
            )
        except DlwhyError as error:
            self._process.add_problem(self._process.name(link_map), f"what it needs cannot be read: {error}")
            return False

    def _obstacle(self, kind: ObstacleKind, link_map: LinkMap) -> Obstacle:
        return Obstacle(kind, self._process.name(link_map))

    # -- symbols --------------------------------------------------------------------------------------------------

    def _hide(self, link_map: LinkMap, found: _Bound) -> Fix:
        """Return how the symbols of a library that pin it are hidden."""
        symbols = sorted(found.unique | found.bound)
        std = any(_OF_STD.match(name) for name in symbols)
        ways = [Hiding.VERSION_SCRIPT]
        if not found.holders:
            ways.append(Hiding.NO_GNU_UNIQUE)
        if not std:
            ways.append(Hiding.ATTRIBUTE if self._hides_names(link_map) else Hiding.VISIBILITY)
        names = _named(self._process, symbols)
        return Fix(
            FixKind.HIDE_SYMBOLS,
            self._process.name(link_map),
            tuple(names[:MAX_NAMED]),
            max(0, len(names) - MAX_NAMED, len(symbols) - _MAX_DEMANGLED),
            tuple(found.holders),
            tuple(ways),
            bool(found.unique),
            std,
        )

    def _hides_names(self, link_map: LinkMap) -> bool:
        """Return True if the file shows that other names are hidden, so that -fvisibility=hidden is in effect."""
        from ..elf.files import hides_names  # few answers need it

        image = self._process.image(link_map)
        return image is not None and hides_names(
            self._process.memory, image, self._process.path(link_map) or "", link_map.l_map_start
        )


def _named(process: GlibcProcess, symbols: Iterable[str]) -> list[str]:
    """Return the demangled names of the first symbols, without guard variables of what is named too."""
    return without_guards(demangled(process.memory, list(symbols)[:_MAX_DEMANGLED]))


def _defines(image: ElfImage, name: str) -> bool:
    """Return True if an image defines a symbol; one that cannot be read is not taken for one that does."""
    try:
        return image.find_symbol(name) is not None
    except DlwhyError:
        return False  # without a definition that is certain the symbol stays
