"""Why does glibc keep a library loaded, and what would make it go?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import Optional

from ...errors import CorruptError, DlwhyError, FaultError
from ...memory import Memory
from ...model import Evidence, LoaderInfo, Problem, ThreadRef
from ..elf.bindings import Bindings
from ..elf.image import DT_FLAGS_1, Image, Images
from ..loader.collector import Edge, Rules, mark
from ..loader.find import Private, is_libc
from ..loader.follow import GraphFollower
from ..loader.layout import choose_layouts
from ..loader.maps import (
    DF_1_NODELETE,
    MAX_NAMESPACES,
    Graph,
    LinkMap,
    Namespace,
    for_each_unique_symbol,
    is_same,
    read_load_lock,
)
from ..loader.roots import LT_EXECUTABLE, LT_LOADED, RootKind
from ..loader.start import AT_SYSINFO_EHDR, R_STATES, Start
from ..loader.tls import Pending
from ..model import CodeSymbol, Hold, HoldKind, Library, Root, State, TlsDestructor
from .naming import base_name, main_program_path, missing_names, target_info

#: glibc's own names of the members that a verdict rests on.
REPORTED_FIELDS = (
    "l_type",
    "l_direct_opencount",
    "l_nodelete_active",
    "l_nodelete_pending",
    "l_flags_1",
    "l_tls_dtor_count",
    "l_map_used",
    "l_idx",
    "l_relocated",
    "l_init_called",
    "l_global",
    "l_removed",
)

#: How many libraries that keep another one are listed; more are counted.
MAX_DEPENDENCY_HOLDS = 16
#: How many names of functions are remembered.
MAX_FUNCTIONS = 4096
MAX_SYMBOLS = 16

#: Where every library needs every other, the search for all holders of all libraries would be cubic.
MAX_SEARCH_STEPS = 20_000

# What is spent, in Memory's units: for a library that is told with its fields, for a step of that search, for a reason
# that is told, for each character of its names, and for a function that is looked up in a file.
_LIBRARY_UNITS = 6000
_STEP_UNITS = 4
_HOLD_UNITS = 500
_TEXT_UNITS = 8
_FUNCTION_UNITS = 250_000

_GUARD = "guard variable for "

# What is computed once for an examination, and depends on the open counts, or on the memory.
_OF_COUNTS = ("kept", "holders", "_permanent_holders")
_OF_MEMORY = ("_needed_at_start", "_unique", "pending")

_ROOT_HOLDS = {
    RootKind.EXECUTABLE: HoldKind.MAIN_PROGRAM,
    RootKind.LIBRARY: HoldKind.STARTUP,
    RootKind.NODELETE: HoldKind.NODELETE,
    RootKind.OPEN_COUNT: HoldKind.OPEN_COUNT,
    RootKind.TLS_DESTRUCTORS: HoldKind.TLS_DESTRUCTORS,
}

#: Holds that nothing in this process can lift.
PERMANENT = frozenset(
    {HoldKind.MAIN_PROGRAM, HoldKind.STARTUP, HoldKind.NEVER_UNLOADS, HoldKind.AUDIT, HoldKind.NODELETE}
)


class Motion(Enum):
    """Whether the loader of a running process changed anything while it was read; HELD: a thread is about to."""

    STILL = "still"
    HELD = "held"
    MOVING = "moving"


class GlibcExamination:
    """One examination of a glibc process."""

    def __init__(self, memory: Memory, start: Start, private: Private) -> None:
        self.memory = memory
        self.start = start
        self.private = private
        chosen = choose_layouts(memory, start, private)
        self.layouts = chosen.layouts
        self.graph: Graph = chosen.graph
        self.rules = Rules.of(self.layouts.version)
        self.problems: list[Problem] = list(
            dict.fromkeys((*memory.target.problems(), *self._list_problems(), *chosen.problems))
        )
        self.lock = read_load_lock(memory, self.layouts, private.rtld_global)
        self.counts: Mapping[int, int] = {}
        self.namespaces: dict[int, Namespace] = {n.number: n for n in self.graph.namespaces}
        self.program = main_program_path(memory, private.rtld)
        self.brief = False
        self._images = chosen.images
        self._bindings: dict[int, tuple[LinkMap, Bindings]] = {}
        self._functions: dict[int, tuple[LinkMap, Optional[str]]] = {}
        self._earlier_bindings: Mapping[int, tuple[LinkMap, Bindings]] = {}

    def _list_problems(self) -> tuple[Problem, ...]:
        """Tell what is wrong with the lists; where glibc's own are whole, the public part of the first is whole too."""
        return (*self.start.problems, *self.graph.problems) if self.graph.problems else ()

    @cached_property
    def kept(self) -> dict[int, tuple[RootKind, ...]]:
        """Mark as the collector would: the maps it keeps, each with its own root kinds."""
        kept: dict[int, tuple[RootKind, ...]] = {}
        for namespace in self.graph.namespaces:
            kept.update(mark(namespace, self.graph, self.rules, self.counts))
        return kept

    def after(self, counts: Mapping[int, int]) -> GlibcExamination:
        """Give the examination of the same process as if some libraries had other open counts, by link_map."""
        other = self._copy(*_OF_COUNTS)
        other.counts = {**self.counts, **counts}
        return other

    def _copy(self, *without: str) -> GlibcExamination:
        """Give another examination that has all that this one has, but for what ``without`` names."""
        other = GlibcExamination.__new__(GlibcExamination)
        other.__dict__.update(self.__dict__)
        for name in without:
            other.__dict__.pop(name, None)
        return other

    def later(self, follower: GraphFollower) -> GlibcExamination:
        """Examine the same process again, after it has gone on: its layouts are what they were.

        :raises FaultError: if the loader's lists cannot be read.
        :raises CorruptError: if they are absurd.
        """
        memory = self.memory.renewed()
        other = self._copy(*_OF_COUNTS, *_OF_MEMORY)
        other.memory = memory
        other.graph = follower.read(memory)
        other.problems = list(other.graph.problems)
        other.lock = read_load_lock(memory, self.layouts, self.private.rtld_global)
        other.counts = {}
        if other.graph is not self.graph:
            other.namespaces = {n.number: n for n in other.graph.namespaces}
        other._images = Images(memory)
        other._bindings = {}
        if self._bindings or self._earlier_bindings:
            known = {**self._earlier_bindings, **self._bindings}
            other._earlier_bindings = {a: found for a, found in known.items() if a in other.graph.by_address}
        return other

    def state(self, brief: bool = False) -> State:
        """Give the verdict on every library, in brief with neither identities nor fields, symbols and evidence."""
        self.brief = brief
        self.note_motion()
        libraries = tuple(self.judge(m, identify=not brief) for m in self.graph.by_address.values())
        problems = (*self.problems, *missing_names())
        return State(target_info(self.memory), self.loader_info(), libraries, problems=problems)

    def loader_info(self) -> LoaderInfo:
        """Describe the loader."""
        version = self.layouts.version
        return LoaderInfo("glibc", ".".join(map(str, version)) if version else None, self.layouts.source)

    def find_motion(self) -> Motion:
        """Read the loader's state once more and compare."""
        memory = Memory(self.memory.target)
        try:
            unchanged = self.graph.is_unchanged(memory)
        except DlwhyError:
            return Motion.MOVING
        owner = read_load_lock(memory, self.layouts, self.private.rtld_global).owner
        if owner != self.lock.owner or not unchanged:
            return Motion.MOVING
        return Motion.STILL if owner is None and self.start.r_state == 0 else Motion.HELD

    def note_motion(self) -> None:
        """Add a problem if libraries are being added or removed."""
        owner = self.lock.owner
        if owner is not None:
            message = f"thread {owner} is inside dlopen or dlclose: the state is in motion"
            self.problems.append(Problem("loader", message))
        elif self.start.r_state in (1, 2):
            message = f"r_state is {R_STATES[self.start.r_state]}: libraries are being added or removed"
            self.problems.append(Problem("loader", message))

    # -- facts of one library ------------------------------------------------------------------------------

    def name(self, link_map: LinkMap) -> str:
        """Give a library's base name."""
        return base_name(self.path(link_map))

    def path(self, link_map: LinkMap) -> str:
        """Give a library's path, or what stands for it where it has none."""
        if link_map.name:
            return link_map.name
        if link_map.l_type == LT_EXECUTABLE:
            return self.program or "the main program"
        return f"link_map {link_map.address:#x}"

    def extent(self, link_map: LinkMap) -> tuple[int, int]:
        """Give the addresses of a library's mappings, start and end."""
        return link_map.l_map_start, link_map.l_map_end

    def image(self, link_map: LinkMap) -> Optional[Image]:
        """Give a library's image, None if it cannot be read."""
        return self._images.at(self.extent(link_map)[0])

    def judge(self, link_map: LinkMap, identify: bool) -> Library:
        """Give the verdict on one library."""
        holds, omitted = self._holds(link_map)
        return self.describe(link_map, identify, self._held(link_map, holds), holds, omitted)

    def describe(
        self,
        link_map: LinkMap,
        identify: bool,
        held: Optional[bool] = None,
        holds: tuple[Hold, ...] = (),
        holds_omitted: int = 0,
    ) -> Library:
        """Give the facts of one library, with the verdict on it if there is one."""
        if not self.brief:
            self.memory.spend(_LIBRARY_UNITS, "libraries")
        image = self.image(link_map) if identify and not link_map.is_proxy else None
        path = self.path(link_map)
        first, last = self.extent(link_map)
        # By position: by name takes five times as long, which shows with hundreds of libraries.
        return Library(
            base_name(path),
            path,
            image.read_soname() if image else None,
            image.read_build_id() if image else None,
            link_map.l_addr,
            first,
            last,
            link_map.l_ns,
            link_map.address,
            {} if self.brief else self._reported_fields(link_map),
            held,
            holds,
            holds_omitted,
            link_map.is_proxy,
        )

    @staticmethod
    def _reported_fields(link_map: LinkMap) -> Mapping[str, Optional[int]]:
        fields = link_map.field_values(REPORTED_FIELDS)
        fields["l_idx"] = _as_int(fields["l_idx"])
        return fields

    @staticmethod
    def _signed(link_map: LinkMap, name: str) -> Optional[int]:
        value = link_map.field(name)
        return _as_int(value) if name == "l_idx" else value

    def _held(self, link_map: LinkMap, holds: Sequence[Hold]) -> Optional[bool]:
        if link_map.address in self.kept:
            return True
        if not self.graph.complete or any(hold.kind is HoldKind.HALF_LOADED for hold in holds):
            return None
        return False

    # -- holds ---------------------------------------------------------------------------------------------

    def _holds(self, link_map: LinkMap) -> tuple[tuple[Hold, ...], int]:
        if link_map.is_proxy:
            return (Hold(HoldKind.STARTUP, self._evidence(link_map, "l_real"), origin="proxy"),), 0
        if link_map.l_type == LT_EXECUTABLE:
            return (Hold(HoldKind.MAIN_PROGRAM, self._evidence(link_map, "l_type")),), 0
        if link_map.l_type != LT_LOADED:
            origin = self._startup_origin(link_map)
            return (Hold(HoldKind.STARTUP, self._evidence(link_map, "l_type"), origin=origin),), 0
        own = self._own_holds(link_map)
        others, omitted = self._dependency_holds(link_map)
        return (*own, *others), omitted

    def open_count(self, link_map: LinkMap) -> int:
        """Give the open count, which is another one than that in memory in an examination of what would be."""
        return self.counts.get(link_map.address, link_map.l_direct_opencount)

    def _own_holds(self, link_map: LinkMap) -> Iterator[Hold]:
        kinds = self.kept.get(link_map.address, ())
        auditing = bool(link_map.l_auditing)
        if auditing:
            yield Hold(HoldKind.AUDIT, self._evidence(link_map, "l_auditing", "l_direct_opencount"))
        if RootKind.NODELETE in kinds:
            yield self._nodelete_hold(link_map)
        elif link_map.l_nodelete_pending:
            yield Hold(HoldKind.NODELETE, self._evidence(link_map, "l_nodelete_pending"), origin="pending")
        if not link_map.l_relocated:
            yield Hold(HoldKind.HALF_LOADED, self._evidence(link_map, "l_relocated"))
        elif self.is_closing(link_map):
            yield Hold(HoldKind.CLOSE_IN_PROGRESS, self._evidence(link_map, "l_removed", "l_idx"))
        if RootKind.OPEN_COUNT in kinds and RootKind.NODELETE not in kinds and not auditing:
            evidence = self._evidence(link_map, "l_direct_opencount")
            yield Hold(HoldKind.OPEN_COUNT, evidence, opened_by(link_map.name), self.open_count(link_map))
        if RootKind.TLS_DESTRUCTORS in kinds:
            pending = self.pending.get(link_map.address, ())
            yield Hold(
                HoldKind.TLS_DESTRUCTORS,
                self._evidence(link_map, "l_tls_dtor_count"),
                total=link_map.l_tls_dtor_count,
                destructors=() if self.brief else tuple(self._destructor(p) for p in pending),
            )

    def _evidence(self, link_map: LinkMap, *names: str) -> tuple[Evidence, ...]:
        result: list[Evidence] = []
        for name in () if self.brief else names:
            member = self.layouts.require("link_map").fields.get(name)
            value = self._signed(link_map, name)
            if member is not None and value is not None:
                expression = f"((struct link_map *) {link_map.address:#x})->{name}"
                address = link_map.address + member.offset
                result.append(Evidence(address, expression, value, member.offset, self.layouts.source))
        return tuple(result)

    def _startup_origin(self, link_map: LinkMap) -> str:
        first = self.extent(link_map)[0]
        if link_map.address == self.private.rtld_map.address:
            return "rtld"
        vdso = self.memory.target.auxv().get(AT_SYSINFO_EHDR)
        if link_map.name.startswith(("linux-vdso", "linux-gate")) or (vdso and first == vdso):
            return "vdso"
        image = self.image(link_map)
        names = {self.name(link_map), image.read_soname() if image else None}
        return "needed" if names & self._needed_at_start else "preload"

    @cached_property
    def _needed_at_start(self) -> frozenset[str]:
        """Collect the DT_NEEDED base names of all start-up objects."""
        names: set[str] = set()
        for link_map in self.graph.by_address.values():
            image = self.image(link_map) if link_map.l_type != LT_LOADED else None
            if image is not None:
                try:
                    names.update(base_name(name) for name in image.read_needed())
                except DlwhyError:
                    continue
        return frozenset(names)

    def is_closing(self, link_map: LinkMap) -> bool:
        """Tell whether the collector has just condemned a map: its destructors run, then it goes.

        The collector numbers the maps in l_idx and sets -1 in those that it keeps; garbage that it left behind
        earlier was kept then, so it has -1.
        """
        if link_map.address in self.kept or not self.lock.is_held:
            return False
        return bool(link_map.field("l_removed")) or (
            not link_map.field("l_map_used") and (self._signed(link_map, "l_idx") or 0) >= 0
        )

    def renew(self, library: Library, link_map: LinkMap) -> Library:
        """Give a verdict whose reasons are the library's own and have not changed, with the values as they are now."""
        holds = []
        for hold in library.holds:
            names = [evidence.expression.rpartition("->")[2] for evidence in hold.evidence]
            early = self.open_count(link_map) > 0 if hold.kind is HoldKind.NODELETE else hold.early_return
            holds.append(hold._replace(evidence=self._evidence(link_map, *names), early_return=early))
        return library._replace(fields=self._reported_fields(link_map), holds=tuple(holds))

    # -- NODELETE ------------------------------------------------------------------------------------------

    def _nodelete_hold(self, link_map: LinkMap) -> Hold:
        flag = "l_nodelete_active" if link_map.l_nodelete_active is not None else "l_flags_1"
        evidence = self._evidence(link_map, flag, "l_direct_opencount")
        origin, symbols = self._nodelete_origin(link_map)
        names = [] if self.brief else _without_guards(self._demangled(symbols))
        return Hold(
            HoldKind.NODELETE,
            evidence,
            origin=origin,
            symbols=tuple(names[:MAX_SYMBOLS]),
            symbols_omitted=max(0, len(names) - MAX_SYMBOLS),
            early_return=self.open_count(link_map) > 0,
        )

    def _nodelete_origin(self, link_map: LinkMap) -> tuple[str, Sequence[str]]:
        if self._has_nodelete_flag(link_map):
            return "elf-flag", ()
        unique = self._unique.get(link_map.address, ())
        if unique:
            return "unique-symbol", unique
        bound = self._bound_by_startup(link_map)
        if bound:
            return "bound-by-startup", bound
        # A start-up object finds symbols only in the global scope, so a library outside it was not bound by one.
        return ("unknown" if link_map.field("l_global") else "dlopen-flag"), ()

    def _has_nodelete_flag(self, link_map: LinkMap) -> bool:
        """Tell whether the file asks for NODELETE: until glibc 2.30 l_flags_1 holds the other causes too."""
        if link_map.l_nodelete_active is not None:
            return link_map.l_flags_1 & DF_1_NODELETE != 0
        image = self.image(link_map)
        try:
            return image is not None and image.dynamic.get(DT_FLAGS_1, 0) & DF_1_NODELETE != 0
        except DlwhyError as error:
            self._add_problem(link_map, f"its dynamic section cannot be read: {error}")
            return False

    def _add_problem(self, link_map: LinkMap, message: str) -> None:
        self.problems.append(Problem(self.name(link_map), message))

    @cached_property
    def _unique(self) -> Mapping[int, list[str]]:
        """Collect the unique symbols by the address of the map that owns them."""
        owners: dict[int, list[str]] = {}
        for namespace in self.graph.namespaces:
            try:
                for symbol in for_each_unique_symbol(self.memory, self.layouts, namespace):
                    owners.setdefault(symbol.owner, []).append(symbol.name or "(name not in memory)")
            except (FaultError, CorruptError) as error:
                self.problems.append(Problem(f"unique symbols of namespace {namespace.number}", str(error)))
        return owners

    def _bound_by_startup(self, link_map: LinkMap) -> list[str]:
        """Find the symbols by which objects that never go point into a library.

        Until glibc 2.30 any NODELETE object marks what it binds to, since 2.31 only start-up objects do.
        """
        symbols: set[str] = set()
        for other in self.namespaces[link_map.l_ns].maps:
            permanent = other.l_type != LT_LOADED or (other.nodelete and other.l_nodelete_active is None)
            if not self.memory.spend(_STEP_UNITS, "what NODELETE libraries are bound by"):
                break
            if permanent and other is not link_map and not other.is_proxy:
                symbols.update(self._symbols_into(other, link_map))
        return sorted(symbols)

    def _symbols_into(self, holder: LinkMap, held: LinkMap) -> tuple[str, ...]:
        bindings = self.bindings(holder)
        return bindings.symbols_into(*self.extent(held)) if bindings else ()

    def bindings(self, holder: LinkMap) -> Optional[Bindings]:
        """Give a library's bindings, None if its image cannot be read; where nothing has changed, the same again."""
        if holder.address not in self._bindings:
            before = self._earlier_bindings.get(holder.address)
            if before is not None and is_same(before[0], holder):
                self._bindings[holder.address] = holder, before[1].later(self.memory)
            else:
                image = self.image(holder)
                if image is None:
                    return None
                from ..elf.bindings import Bindings

                self._bindings[holder.address] = holder, Bindings(self.memory, image)
        return self._bindings[holder.address][1]

    # -- TLS destructors -----------------------------------------------------------------------------------

    @cached_property
    def pending(self) -> Mapping[int, tuple[Pending, ...]]:
        """Collect the TLS destructors that are pending, by the address of the map that they keep."""
        from ..loader.tls import read_destructors

        libcs = [m for m in self.graph.by_address.values() if not m.is_proxy and is_libc(m.name)]
        libcs = libcs[:MAX_NAMESPACES]
        found = read_destructors(self.memory, self.graph, libcs, self.rules, self.private.rtld, self._listed_threads)
        self.problems.extend(found.problems)
        return found.by_map

    def _listed_threads(self) -> Mapping[int, int]:
        from ..loader.threads import find_thread_pointers

        return find_thread_pointers(self.memory, self.layouts, self.graph, self.private.rtld_global)

    def _destructor(self, pending: Pending) -> TlsDestructor:
        thread = ThreadRef(pending.thread.number, pending.thread.lwp, pending.thread.name)
        function = self.code_symbol(pending.function) if pending.function is not None else CodeSymbol(0, None, None)
        size = len(function.name or "") + len(function.library or "")
        if not self.memory.spend(_TEXT_UNITS * size, "names of destructors"):
            function = CodeSymbol(function.address, None, None)
        return TlsDestructor(thread, function, pending.object)

    def code_symbol(self, address: int) -> CodeSymbol:
        """Name the function that covers an address, and its library."""
        link_map = self.find_map(address)
        if link_map is None:
            return CodeSymbol(address, None, None)
        return CodeSymbol(address, self._function_name(link_map, address), self.name(link_map))

    def find_map(self, address: int) -> Optional[LinkMap]:
        """Find the library in whose mappings an address lies."""
        return self.graph.find_map(address)

    def binds(self, holder: LinkMap, held: LinkMap) -> bool:
        """Tell whether a library is bound to a symbol of another one."""
        return bool(self._symbols_into(holder, held))

    def _function_name(self, link_map: LinkMap, address: int) -> Optional[str]:
        """Name a function; the threads of a pool all have the same destructors."""
        known = self._functions.get(address)
        if known is None or not is_same(known[0], link_map):
            if len(self._functions) >= MAX_FUNCTIONS:
                self._functions.clear()
            known = self._functions[address] = link_map, self._find_function_name(link_map, address)
        return known[1]

    def _find_function_name(self, link_map: LinkMap, address: int) -> Optional[str]:
        image = self.image(link_map)
        if image is None or not self.memory.spend(_FUNCTION_UNITS, "names of functions"):
            return None
        from ..elf.demangle import demangle
        from ..elf.files import name_function

        try:
            name = name_function(self.memory, image, self.path(link_map), self.extent(link_map)[0], address)
        except DlwhyError:
            return None
        return demangle(name) if name else None

    # -- dependencies --------------------------------------------------------------------------------------

    @cached_property
    def holders(self) -> Mapping[int, list[tuple[int, Edge]]]:
        """Collect for each map those kept maps that keep it directly; dependencies come before relocations."""
        holders: dict[int, list[tuple[int, Edge]]] = {}
        by_relocation: dict[int, list[tuple[int, Edge]]] = {}
        for address in self.kept:
            link_map = self.graph.by_address[address]
            for needed in link_map.needed:
                holders.setdefault(needed, []).append((address, Edge.DEPENDENCY))
            for needed in link_map.relocated_to:
                by_relocation.setdefault(needed, []).append((address, Edge.RELOCATION))
        for needed, entries in by_relocation.items():
            holders.setdefault(needed, []).extend(entries)
        return holders

    def _dependency_holds(self, link_map: LinkMap) -> tuple[list[Hold], int]:
        """Find the roots that lead to a map, each by its shortest chain; one that never goes is not left out."""
        if link_map.address not in self.holders:
            return [], 0
        towards: dict[int, tuple[int, Edge]] = {}
        queue = [link_map.address]
        roots = []
        steps = 0
        for address in queue:
            holders = self.holders.get(address, ())
            steps += len(holders)
            for holder, edge in holders:
                if holder != link_map.address and holder not in towards:
                    towards[holder] = (address, edge)
                    queue.append(holder)
                    if self.kept[holder]:
                        roots.append(holder)
            if not self.memory.spend(_STEP_UNITS * len(holders), "reasons why libraries stay"):
                break
            if steps > MAX_SEARCH_STEPS:
                break
        listed: list[int] = []
        holds: list[Hold] = []
        for root in roots[:MAX_DEPENDENCY_HOLDS]:
            hold = self._dependency_hold(link_map, root, towards)
            texts = (*hold.chain, *hold.symbols)
            units = _HOLD_UNITS * (1 + len(texts)) + _TEXT_UNITS * sum(map(len, texts))
            if not self.memory.spend(units, "reasons why libraries stay"):
                break
            listed.append(root)
            holds.append(hold)
        if not any(_is_permanent(hold) for hold in holds):
            chain = self._permanent_chain(link_map)
            if chain is not None:
                listed.append(chain[0])
                holds.append(self._dependency_hold(link_map, *chain))
        holds.sort(key=lambda h: (not _is_permanent(h), len(h.chain), h.kind.value, h.chain))
        return holds, max(0, len({*roots, *listed}) - len(holds))

    def _permanent_chain(self, link_map: LinkMap) -> Optional[tuple[int, Mapping[int, tuple[int, Edge]]]]:
        """Find the nearest root that never goes, and the way from it to a map."""
        towards: dict[int, tuple[int, Edge]] = {}
        address = link_map.address
        while address in self._permanent_holders:
            holder, edge = self._permanent_holders[address]
            towards[holder] = (address, edge)
            address = holder
        return (address, towards) if towards else None

    @cached_property
    def _permanent_holders(self) -> Mapping[int, tuple[int, Edge]]:
        """Collect for each map the next one on its shortest way to a root that never goes."""
        queue = [address for address in self.kept if self.never_goes(address)]
        seen = set(queue)
        holders: dict[int, tuple[int, Edge]] = {}
        for address in queue:
            link_map = self.graph.by_address[address]
            edges = [(needed, Edge.DEPENDENCY) for needed in link_map.needed]
            edges += [(needed, Edge.RELOCATION) for needed in link_map.relocated_to]
            for needed, edge in edges:
                if needed not in seen and needed in self.graph.by_address:
                    seen.add(needed)
                    holders[needed] = (address, edge)
                    queue.append(needed)
        return holders

    def never_goes(self, root: int) -> bool:
        """Tell whether a root, by its map's address, stays for good."""
        kinds = (_ROOT_HOLDS[kind] for kind in self.kept[root])
        return not PERMANENT.isdisjoint(kinds) or bool(self.graph.by_address[root].l_auditing)

    def _dependency_hold(self, held: LinkMap, root: int, towards: Mapping[int, tuple[int, Edge]]) -> Hold:
        chain = [root]
        edge = Edge.DEPENDENCY
        while chain[-1] != held.address:
            following, edge = towards[chain[-1]]
            chain += self._dependency_path(chain[-1], following) if edge is Edge.DEPENDENCY else [following]
        maps = [self.graph.by_address[address] for address in chain]
        member = "l_initfini" if edge is Edge.DEPENDENCY else "l_reldeps"
        symbols: tuple[str, ...] = ()
        if edge is Edge.RELOCATION and not self.brief:
            symbols = tuple(sorted(self._demangled(self._symbols_into(maps[-2], held))))
        kinds = [_ROOT_HOLDS[kind] for kind in self.kept[root]]
        if maps[0].l_auditing:
            kinds = [HoldKind.AUDIT]
        elif HoldKind.NODELETE in kinds and HoldKind.OPEN_COUNT in kinds:
            kinds.remove(HoldKind.OPEN_COUNT)
        return Hold(
            HoldKind.DEPENDENCY if edge is Edge.DEPENDENCY else HoldKind.RELOCATION,
            self._evidence(maps[-2], member),
            chain=tuple(self.name(m) for m in maps),
            root=Root(
                self.name(maps[0]),
                tuple(kinds),
                opened_by(maps[0].name) if HoldKind.OPEN_COUNT in kinds else None,
            ),
            symbols=symbols[:MAX_SYMBOLS],
            symbols_omitted=max(0, len(symbols) - MAX_SYMBOLS),
        )

    def _dependency_path(self, holder: int, held: int) -> list[int]:
        """Name the libraries between: the l_initfini of a dlopened library lists its indirect dependencies too."""
        reached: dict[int, int] = {}
        queue = [holder]
        for address in queue:
            direct = self._direct_dependencies(address)
            for needed in direct:
                if needed not in reached and needed != holder:
                    reached[needed] = address
                    queue.append(needed)
            if held in reached or not self.memory.spend(_STEP_UNITS * (1 + len(direct)), "chains of dependencies"):
                break
        if held not in reached:
            return [held]
        path = [held]
        while reached[path[-1]] != holder:
            path.append(reached[path[-1]])
        return path[::-1]

    def _direct_dependencies(self, address: int) -> tuple[int, ...]:
        link_map = self.graph.by_address[address]
        if link_map.direct is None:
            link_map.direct = tuple(self._find_direct_dependencies(link_map))
        return link_map.direct

    def _demangled(self, symbols: Iterable[str]) -> set[str]:
        from ..elf.demangle import demangle_all

        affordable: list[str] = []
        for symbol in symbols:
            if not self.memory.spend(_HOLD_UNITS + _TEXT_UNITS * len(symbol), "names of symbols") and affordable:
                break
            affordable.append(symbol)
        found = set(demangle_all(affordable).values())
        self.memory.spend(_TEXT_UNITS * sum(map(len, found)), "names of symbols")
        return found

    def _find_direct_dependencies(self, link_map: LinkMap) -> Iterator[int]:
        image = self.image(link_map)
        try:
            wanted = {base_name(name) for name in image.read_needed()} if image else set()
        except DlwhyError:
            return
        for address in link_map.needed:
            other = self.graph.by_address.get(address)
            if other is None:
                continue
            if self.name(other) in wanted:
                yield address
                continue
            other_image = self.image(other)
            if other_image is not None and other_image.read_soname() in wanted:
                yield address


def _without_guards(names: set[str]) -> list[str]:
    """Sort names, leaving out the guard variables of those that are there themselves."""
    return sorted(name for name in names if name[len(_GUARD) :] not in names or not name.startswith(_GUARD))


def _is_permanent(hold: Hold) -> bool:
    return hold.root is not None and not PERMANENT.isdisjoint(hold.root.kinds)


def _as_int(value: Optional[int]) -> Optional[int]:
    """Give l_idx its sign: it is an ``int``, and -1 says that the collector kept the map."""
    return value - (1 << 32) if value is not None and value >> 31 else value


def opened_by(path: str) -> str:
    """Tell who most probably opened a library: libc opens these for itself and hands out no handle."""
    name = base_name(path)
    internal = name.startswith(("libgcc_s.so", "libnss_", "libidn2.so")) or "/gconv/" in path
    return "libc" if internal else "user"
