"""Is each library of a glibc process held, and by what?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional

from ...errors import NotFoundError
from ...graph import Search
from ...memory import Memory
from ...model import Evidence
from ...paths import GLOB_CHARACTERS, base_name
from ..loader.maps import Graph, LinkMap
from ..loader.roots import LT_EXECUTABLE, LT_LOADED, RootKind
from ..loader.static_tls import read_static_surplus
from ..model import Hold, HoldKind, Library, State, StaticTls
from .activity import note_activity
from .chains import MAX_DEMANGLED, MAX_SYMBOLS, HoldChains
from .doubts import Doubts
from .evidence import read_evidence, reported_fields
from .files import LoadedFiles
from .mark_phase import MarkPhase
from .naming import missing_names, opened_by, target_info
from .nodelete import NodeleteOrigins, without_guards
from .process import GlibcProcess
from .startup import Startup
from .symbols import demangled
from .tls import PendingDestructors

if TYPE_CHECKING:
    from ..rebuild_model import Rebuild

#: Chooses libraries by what they are, without a verdict; may raise NotFoundError.
Choice = Callable[[Sequence[Library]], Sequence[Library]]

# Costs in Memory's units: of a library's facts with its fields, of the verdict on it, and of a step along an edge.
_FACTS_UNITS = 2000
_VERDICT_UNITS = 4000
_STEP_UNITS = 4


class ProcessFacts(NamedTuple):
    """The facts about a process that do not depend on open counts."""

    process: GlibcProcess
    startup: Startup
    nodelete: NodeleteOrigins
    destructors: PendingDestructors
    doubts: Doubts


class GlibcExamination:
    """The verdicts on a process's libraries under given open counts."""

    def __init__(self, facts: ProcessFacts, counts: Mapping[int, int] = {}, *, brief: bool = False) -> None:
        """Create an examination of a process under the given open counts.

        :param counts: the open counts that differ from memory, by link map address.
        :param brief: verdicts have neither fields, symbols, destructors nor evidence.
        """
        self.process = facts.process
        self.destructors = facts.destructors
        self.kept = MarkPhase(facts.process, counts, facts.destructors)
        self._facts = facts
        self._brief = brief
        self._surely_kept: set[int] = set()
        self._chains = HoldChains(facts.process, self.kept, brief=brief)

    @classmethod
    def of(cls, process: GlibcProcess, *, brief: bool = False) -> GlibcExamination:
        """Examine a process under its actual open counts."""
        return cls._of(process, PendingDestructors(process), brief=brief, compared=True)

    @classmethod
    def _of(
        cls, process: GlibcProcess, destructors: PendingDestructors, *, brief: bool, compared: bool
    ) -> GlibcExamination:
        nodelete = NodeleteOrigins(process)
        doubts = Doubts(process, nodelete, compared=compared)
        return cls(ProcessFacts(process, Startup(process), nodelete, destructors, doubts), brief=brief)

    def after(self, counts: Mapping[int, int]) -> GlibcExamination:
        """Examine the same process as if some libraries had other open counts, by link map address."""
        return GlibcExamination(self._facts, {**self.kept.counts, **counts}, brief=self._brief)

    def later(self, read: Callable[[Memory], Graph]) -> GlibcExamination:
        """Examine the process again after it has run, under its actual open counts.

        :param read: reads its libraries.
        :raises FaultError: if the loader's lists cannot be read.
        :raises CorruptError: if they are implausible.
        """
        process = self.process.later(read)
        return GlibcExamination._of(process, self.destructors.later(process), brief=self._brief, compared=False)

    def choose(self, choose: Choice, asked: str = "") -> Sequence[Library]:
        """Return the libraries that ``choose`` selects from the facts of all, which have no verdicts.

        Sonames are read of few if that is enough: of libraries with names that begin as the one that is asked for,
        which another library has, and of none for an address.

        :param asked: what the user asks for; empty if that is not known.
        :raises NotFoundError: if ``choose`` raises it.
        """
        maps = self.process.graph.by_address.values()
        stem, of_library, _ = base_name(asked).partition(".so")
        is_name = bool(asked) and any(asked in (self.process.name(m), self.process.path(m)) for m in maps)
        if is_name or (asked and not of_library and GLOB_CHARACTERS.isdisjoint(asked)):
            facts = GlibcExamination(self._facts, brief=True)
            names = map(self.process.name, maps)
            try:
                return choose([facts.describe(m, is_name and name.startswith(stem)) for m, name in zip(maps, names)])
            except NotFoundError:
                pass  # it can be a soname: the choice among all of them, below, decides, and raises if none fits
        return choose([self.describe(m, identify=True) for m in maps])

    def state(self, chosen: Optional[Iterable[Library]] = None) -> State:
        """Return the verdict on every library, or on ``chosen`` ones; a brief one lacks sonames and build-ids."""
        process = self.process
        note_activity(process)
        by_address = process.graph.by_address
        maps = by_address.values() if chosen is None else [by_address[library.link_map] for library in chosen]
        files = LoadedFiles(process)
        libraries = tuple(self.verdict(m, not self._brief, files.state_word(m)) for m in maps)
        if chosen is not None:
            held = (library.held is True for library in libraries)
            libraries = tuple(
                library._replace(rebuild=self.rebuild(m)) if stays else library
                for library, m, stays in zip(libraries, maps, held)
            )
        return State(
            target_info(process.memory),
            process.loader_info(),
            libraries,
            problems=(*process.concerned_problems(), *missing_names()),
            static_tls=self.static_tls() if chosen is None else None,
        )

    def static_tls(self) -> Optional[StaticTls]:
        """Return what is left of the static TLS block for libraries that dlopen loads, None if that is unknown."""
        process = self.process
        if not process.graph.complete:
            return None  # what a library has that is not listed would be taken for lost
        maps = process.graph.by_address.values()
        return read_static_surplus(process.memory, process.layouts, process.private, maps, process.name)

    def rebuild(self, link_map: LinkMap) -> Optional[Rebuild]:
        """Return what would let a library go that something keeps for good; None for others, and for start-up ones."""
        from .rebuild import find_rebuild  # the list of all libraries has no remedies

        return find_rebuild(self.process, self.kept, self._facts.nodelete, link_map)

    def verdict(self, link_map: LinkMap, identify: bool, file_state: Optional[str] = None) -> Library:
        """Return the verdict on one library, with how its file has changed."""
        if not self._brief:
            self.process.memory.spend(_VERDICT_UNITS, "libraries")
        if identify:
            self.process.image(link_map)  # reads what is compared and what identifies it with one request
        self.process.concern(link_map)
        if self._facts.doubts.of(link_map):
            return self.describe(link_map, identify, file_state=file_state)
        holds, omitted = self._holds(link_map)
        return self.describe(link_map, identify, self._held(link_map, holds), holds, omitted, file_state)

    def describe(
        self,
        link_map: LinkMap,
        identify: bool,
        held: Optional[bool] = None,
        holds: tuple[Hold, ...] = (),
        holds_omitted: int = 0,
        file_state: Optional[str] = None,
    ) -> Library:
        """Return the facts of one library, with the verdict on it if there is one."""
        if not self._brief:
            self.process.memory.spend(_FACTS_UNITS, "libraries")
        image = self.process.image(link_map) if identify and not link_map.is_proxy else None
        path = self.process.path(link_map)
        first, last = self.process.extent(link_map)
        # By position: keywords take five times as long, which is noticeable with hundreds of libraries.
        return Library(
            self.process.name(link_map) if path is None else base_name(path),
            path,
            image.read_soname() if image else None,
            image.read_build_id() if image else None,
            link_map.l_addr,
            first,
            last,
            link_map.l_ns,
            link_map.address,
            {} if self._brief else reported_fields(link_map),
            held,
            holds,
            holds_omitted,
            link_map.is_proxy,
            None,
            file_state,
        )

    def refresh_verdict(self, library: Library, link_map: LinkMap) -> Library:
        """Return a verdict, whose holds are unchanged and not through other libraries, with current values."""
        holds = []
        for hold in library.holds:
            members = [evidence.member for evidence in hold.evidence]
            early = self._returns_early(link_map) if hold.kind is HoldKind.NODELETE else hold.dlclose_returns_early
            holds.append(hold._replace(evidence=self._evidence(link_map, *members), dlclose_returns_early=early))
        return library._replace(fields=reported_fields(link_map), holds=tuple(holds))

    def _held(self, link_map: LinkMap, holds: Sequence[Hold]) -> Optional[bool]:
        if link_map.address in self.kept.marks:
            return True if self._is_surely_kept(link_map) else None
        if not self.process.graph.complete or any(hold.kind is HoldKind.HALF_LOADED for hold in holds):
            return None
        if self.is_surely_unmarked(link_map):
            return False
        self._facts.doubts.note_unmarked(link_map)
        return None

    def _is_surely_kept(self, link_map: LinkMap) -> bool:
        """Return True if a root keeps a marked library through libraries whose link maps nothing contradicts."""
        if self.kept.marks[link_map.address] or link_map.address in self._surely_kept:
            return True  # its own link map was compared before it was asked what keeps it
        by_address, doubted = self.process.graph.by_address, []

        def holders(address: int) -> Sequence[int]:
            found = []
            for each in self.kept.holders.get(address, ()):
                if self._facts.doubts.of(by_address[each]):
                    doubted.append(by_address[each])
                else:
                    found.append(each)
            return found

        search = Search([link_map.address], holders, self._spend_steps)
        for address in search:
            if self.kept.marks[address] or address in self._surely_kept:
                self._surely_kept.update(search.path(address))
                return True
        for each in doubted:
            self.process.concern(each)
        return not doubted

    def is_doubted(self, link_map: LinkMap) -> bool:
        """Return True if something contradicts a library's link map."""
        return bool(self._facts.doubts.of(link_map))

    def is_surely_unmarked(self, link_map: LinkMap) -> bool:
        """Return True if nothing contradicts that nothing keeps a library, and its own link map."""
        doubts = self._facts.doubts
        by_address = self.process.graph.by_address
        if not self.kept.counts and doubts.of_unmarked(link_map):
            return False
        for address in Search([link_map.address], doubts.users, self._spend_steps):
            if doubts.of(by_address[address]):
                self.process.concern(by_address[address])
                return False
        return not self.is_needed_unlisted(link_map, lambda user: user.address in self.kept.marks)

    def is_needed_unlisted(self, link_map: LinkMap, stays: Callable[[LinkMap], bool]) -> bool:
        """Return True if a library that stays needs one by its file, though the loader's list lacks that."""
        users = [each for each in self._facts.doubts.unlisted_users(link_map) if stays(each)]
        for each in users:
            self._facts.doubts.note_unlisted(each, link_map)
            self.process.concern(each)
        return bool(users)

    def _spend_steps(self, count: int) -> bool:
        return self.process.memory.spend(_STEP_UNITS * (1 + count), "what is known of the libraries that keep others")

    def _holds(self, link_map: LinkMap) -> tuple[tuple[Hold, ...], int]:
        if link_map.is_proxy:
            return (Hold(HoldKind.STARTUP, self._evidence(link_map, "l_real"), origin="proxy"),), 0
        if link_map.l_type == LT_EXECUTABLE:
            return (Hold(HoldKind.MAIN_PROGRAM, self._evidence(link_map, "l_type")),), 0
        if link_map.l_type != LT_LOADED:
            origin = self._facts.startup.origin(link_map)
            return (Hold(HoldKind.STARTUP, self._evidence(link_map, "l_type"), origin=origin),), 0
        own = tuple(self._own_holds(link_map))
        if self._brief and own:
            return own, self._chains.count(link_map)
        others, omitted = (self._chains.strongest if self._brief else self._chains.holds)(link_map)
        return (*own, *others), omitted

    def _own_holds(self, link_map: LinkMap) -> Iterator[Hold]:
        kinds = self.kept.marks.get(link_map.address, ())
        auditing = bool(link_map.l_auditing)
        if auditing:
            yield Hold(HoldKind.AUDIT, self._evidence(link_map, "l_auditing", "l_direct_opencount"))
        if RootKind.NODELETE in kinds:
            yield self._nodelete_hold(link_map)
        elif link_map.l_nodelete_pending:
            yield Hold(HoldKind.NODELETE, self._evidence(link_map, "l_nodelete_pending"), origin="pending")
        if not link_map.l_relocated:
            yield Hold(HoldKind.HALF_LOADED, self._evidence(link_map, "l_relocated"))
        elif self.kept.is_closing(link_map):
            yield Hold(HoldKind.CLOSE_IN_PROGRESS, self._evidence(link_map, "l_removed", "l_idx"))
        if RootKind.OPEN_COUNT in kinds and RootKind.NODELETE not in kinds and not auditing:
            evidence = self._evidence(link_map, "l_direct_opencount")
            yield Hold(HoldKind.OPEN_COUNT, evidence, opened_by(link_map.name), self.kept.open_count(link_map))
        if RootKind.TLS_DESTRUCTORS in kinds:
            yield self._destructor_hold(link_map)

    def _nodelete_hold(self, link_map: LinkMap) -> Hold:
        flag = "l_nodelete_active" if link_map.l_nodelete_active is not None else "l_flags_1"
        evidence = self._evidence(link_map, flag, "l_direct_opencount")
        origin, symbols = self._facts.nodelete.origin(link_map)
        names = [] if self._brief else without_guards(demangled(self.process.memory, symbols[:MAX_DEMANGLED]))
        return Hold(
            HoldKind.NODELETE,
            evidence,
            origin=origin,
            symbols=tuple(names[:MAX_SYMBOLS]),
            symbols_omitted=0 if self._brief else max(0, len(names) - MAX_SYMBOLS, len(symbols) - MAX_DEMANGLED),
            dlclose_returns_early=self._returns_early(link_map),
        )

    def _destructor_hold(self, link_map: LinkMap) -> Hold:
        return Hold(
            HoldKind.TLS_DESTRUCTORS,
            self._evidence(link_map, "l_tls_dtor_count"),
            total=link_map.l_tls_dtor_count,
            destructors=() if self._brief else self.destructors.describe(link_map),
        )

    def _returns_early(self, link_map: LinkMap) -> bool:
        """Return True if a dlclose of a NODELETE library would return early: it does if the library is open."""
        return self.kept.open_count(link_map) > 0

    def _evidence(self, link_map: LinkMap, *members: str) -> tuple[Evidence, ...]:
        return () if self._brief else read_evidence(self.process.layouts, link_map, *members)
