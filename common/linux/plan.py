"""What would closing a library unload, in which order, what would stay, and what would unload that?

The collector's rules are in `loader.collector` (its mark phase, here run with open counts as the closes leave them) and
`loader.order`.  Destructors are not predicted: if an unloaded library imports dlclose, the plan is a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Optional, Union

from ..counts import quantity
from ..errors import NotFoundError
from ..graph import Search
from ..memory import Memory
from ..model import Outcome, ThreadRef
from ..target import Target
from .auxv import AT_PAGESZ
from .loader.collector import mark
from .loader.frames import Positions, find_positions
from .loader.maps import Graph, LinkMap, Namespace
from .loader.order import FinaliserOrders, OrderRule, finaliser_order, find_order_rule
from .loader.rendezvous import Rendezvous
from .loader.roots import LT_LOADED, RootKind
from .model import PERMANENT, Library
from .plan_model import Action, Plan, Plans, Remedy, Step, ThreadInside
from .state.activity import note_activity
from .state.closers import Closers
from .state.examine import examine
from .state.files import LoadedFiles
from .state.matching import select
from .state.musl import explain_musl
from .state.naming import missing_names, opened_by, target_info
from .state.process import GlibcProcess
from .state.sole_roots import find_sole_roots
from .state.unfound import NOT_WHOLE, explain_unfound, incomplete, unfound_in_motion
from .state.verdict import GlibcExamination

# Costs in Memory's units: of a library that is marked, of each of its edges, of an unloaded library, and of each
# character of its name.
_MARK_UNITS = 24
_EDGE_UNITS = 2
_UNLOAD_UNITS = 1000
_TEXT_UNITS = 8
#: What all open libraries of a namespace have in common is found in the time of four mark phases.
_MARKS_FOR_ALL = 4

DEFAULT_PAGE_SIZE = 4096


def plan_close(target: Target, text: str, evaluate: Callable[[str], int], closes: Optional[int] = 1) -> Plans:
    """Predict the effect of closing a library.

    :param text: the library's name or an expression, as for `select`.
    :param evaluate: evaluates an expression to a number; raises NotFoundError if it cannot.
    :param closes: how many calls of dlclose; None: as many as the library's open count.
    :raises NotFoundError: if no library matches, or more than one.
    :raises UnsupportedError: if there is no dynamic loader, it has not run yet, or it is of an unknown kind.
    """

    def of_glibc(process: GlibcProcess) -> Union[Plans, NotFoundError]:
        examined = GlibcExamination.of(process)
        planner = Planner(examined)
        maps = process.graph.by_address
        try:
            found = examined.choose(lambda libraries: select(libraries, text, evaluate), text)
        except NotFoundError as error:
            return explain_unfound(process, error)  # not raised as long as the process may be caught in a change
        chosen = require_one(found, text)
        return planner.plans((planner.plan(maps[chosen.link_map], closes),), text)

    def of_musl(memory: Memory, start: Rendezvous) -> Union[Plans, NotFoundError]:
        state = explain_musl(memory, start)
        try:
            chosen = require_one(select(state.libraries, text, evaluate), text)
        except NotFoundError as error:
            return error if start.complete else incomplete(error, NOT_WHOLE)
        plan = Plan(chosen, None, closes or 1, Outcome.KEEPS, kept=(chosen,), remedy=Remedy(blocker=chosen))
        return Plans(state.target, state.loader, (plan,), text, problems=state.problems)

    answer, racy = examine(target, of_glibc, of_musl)
    if isinstance(answer, NotFoundError):
        raise unfound_in_motion(answer, racy)
    return answer._replace(problems=(*answer.problems, *racy))


def plan_all(target: Target, closes: Optional[int] = None) -> Plans:
    """Predict for each open library what closing it would do, the largest unload first.

    :param closes: how many calls of dlclose for each library; None: as many as its open count.
    :raises UnsupportedError: if there is no dynamic loader, it has not run yet, or it is of an unknown kind.
    """

    def of_glibc(process: GlibcProcess) -> Plans:
        planner = Ranking(GlibcExamination.of(process))
        maps = [m for m in process.graph.by_address.values() if planner.has_handle(m)]
        plans = list(planner.for_each_plan(maps, closes))
        if len(maps) > len(plans):
            ranked = quantity(len(plans), "is", "are")
            process.add_problem(
                "ranking", f"{quantity(len(maps), 'library is', 'libraries are')} open, only {ranked} ranked"
            )
        plans.sort(key=lambda plan: (-plan.unload_bytes, -len(plan.unloads), plan.library.namespace, plan.library.name))
        return planner.plans(tuple(plans), None)._replace(unranked=len(maps) - len(plans))

    def of_musl(memory: Memory, start: Rendezvous) -> Plans:
        state = explain_musl(memory, start)
        return Plans(state.target, state.loader, (), problems=state.problems)

    plans, racy = examine(target, of_glibc, of_musl)
    return plans._replace(problems=(*plans.problems, *racy))


def require_one(found: Sequence[Library], text: str) -> Library:
    """Return the one library that matches.

    :raises NotFoundError: if more than one does.
    """
    if len(found) > 1:
        names = [f"&{library.link_map:#x} ({library.name}, namespace {library.namespace})" for library in found[:8]]
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise NotFoundError(
            f"{len(found)} loaded libraries match '{text}': name one by its handle, {', '.join(names)}{more}"
        )
    return found[0]


class Planner:
    """Predicts closes in one examined process."""

    def __init__(self, examined: GlibcExamination) -> None:
        self.examined = examined
        self._process = examined.process
        self._closers = Closers(examined.process)
        self._described: dict[int, Library] = {}

    def _spend(self, units: int) -> bool:
        return self._process.memory.spend(units, "predictions")

    @cached_property
    def _units(self) -> int:
        """Return the budget units that one mark phase takes."""
        maps = self._process.graph.by_address.values()
        edges = sum(len(link_map.needed) + len(link_map.relocated_to) for link_map in maps)
        return _MARK_UNITS * len(maps) + _EDGE_UNITS * edges

    def plans(self, plans: tuple[Plan, ...], asked: Optional[str]) -> Plans:
        """Build the answer from plans."""
        process = self._process
        note_activity(process)
        found = [m for m in process.graph.by_address.values() if self.is_garbage(m)]
        # A library that was not read can keep any other.
        garbage = tuple(map(self._describe, found)) if process.graph.complete else None
        problems = (*process.concerned_problems(), *missing_names())
        return Plans(target_info(process.memory), process.loader_info(), plans, asked, garbage, problems)

    def has_handle(self, link_map: LinkMap) -> bool:
        """Return True if a library is open, so that somebody has a handle to close."""
        opened = link_map.l_type == LT_LOADED and link_map.l_direct_opencount > 0
        return opened and not link_map.is_proxy and not link_map.field("l_auditing")

    def is_garbage(self, link_map: LinkMap) -> bool:
        """Return True if nothing keeps a library that is still loaded and no running close has condemned it."""
        return (
            not link_map.is_proxy
            and link_map.address not in self.examined.kept.marks
            and link_map.address not in self._condemned
            and self.examined.is_surely_unmarked(link_map)
        )

    @cached_property
    def _condemned(self) -> frozenset[int]:
        """Return the link maps that a running close has condemned."""
        if not self._process.lock.is_held:
            return frozenset()
        maps, kept = self._process.graph.by_address, self.examined.kept
        return frozenset(address for address in maps.keys() - kept.marks.keys() if kept.is_closing(maps[address]))

    @cached_property
    def _order_rule(self) -> OrderRule:
        process = self._process
        return find_order_rule(process.memory, process.graph, process.private, process.layouts.version)

    def plan(self, link_map: LinkMap, closes: Optional[int] = 1, *, brief: bool = False) -> Plan:
        """Predict a close of a library.

        :param closes: how many calls of dlclose; None: as many as the open count.
        :param brief: omit the libraries that stay, and the remedy.
        """
        times = max(link_map.l_direct_opencount, 1) if closes is None else closes
        outcome, left, unloads = self.predict(link_map, times)
        return self._finish(link_map, times, outcome, left, unloads, brief)

    def predict(self, link_map: LinkMap, times: int = 1) -> tuple[Outcome, int, tuple[int, ...]]:
        """Predict how a close ends: the outcome, the remaining open count, and the unloaded link maps in list order."""
        count = link_map.l_direct_opencount
        left = max(0, count - times)
        if self.examined.is_doubted(link_map):
            return Outcome.UNKNOWN, left, ()
        if link_map.nodelete:
            return Outcome.NO_EFFECT, count, ()
        if count == 0:
            return Outcome.NOT_OPEN, count, ()
        if left > 0 or link_map.l_type != LT_LOADED:
            return Outcome.KEEPS, left, ()
        unloads = self._find_unloaded(link_map)
        by_address = self._process.graph.by_address
        if unloads is None or any(self._is_doubted(by_address[address], unloads) for address in unloads):
            return Outcome.UNKNOWN, left, ()
        if self._condemned:
            return Outcome.DEFERRED, left, unloads
        return (Outcome.UNLOADS if link_map.address in unloads else Outcome.KEEPS), left, unloads

    def _is_doubted(self, link_map: LinkMap, unloads: Sequence[int]) -> bool:
        """Return True if something contradicts that a library is unloaded together with others."""
        return self.examined.is_doubted(link_map) or self.examined.is_needed_unlisted(
            link_map, lambda user: user.address not in unloads and user.address not in self._condemned
        )

    def _collecting(self, link_map: LinkMap) -> Optional[Namespace]:
        """Return the namespace in which the last close of a link map collects, None if it is not known."""
        # The running close collects again, in its own namespace, after its destructors have run.
        closed = self._process.graph.by_address[min(self._condemned)] if self._condemned else link_map
        return self._process.namespaces.get(closed.l_ns)

    def _find_unloaded(self, link_map: LinkMap) -> Optional[tuple[int, ...]]:
        """Return what the collector unloads after the last close of a link map, in list order.

        None if not all libraries were read: those that were not can keep any other.  Another namespace's link map for
        ld.so is unloaded with the namespace, but ld.so itself is not.
        """
        namespace = None if not self._process.graph.complete else self._collecting(link_map)
        return None if namespace is None else self._find_unloaded_of(namespace, link_map)

    def _find_unloaded_of(self, namespace: Namespace, link_map: LinkMap) -> tuple[int, ...]:
        process = self._process
        self._spend(self._units)
        kept = mark(namespace, process.graph, process.rules, {link_map.address: 0})
        return tuple(address for address in self._unloadable(namespace) if address not in kept)

    def _unloadable(self, namespace: Namespace) -> Iterator[int]:
        """Yield the link maps of a namespace that a close can unload, unless something keeps them, in list order."""
        return (m.address for m in namespace.maps if not m.is_proxy and m.address not in self._condemned)

    def _finish(
        self, link_map: LinkMap, times: int, outcome: Outcome, left: int, unloads: tuple[int, ...], brief: bool
    ) -> Plan:
        by_address = self._process.graph.by_address
        order: Optional[str] = None
        rule = self._order_rule
        namespace = self._collecting(link_map)
        if unloads and namespace is not None:
            closed = None if outcome is Outcome.DEFERRED else link_map
            ordered = unloads if len(unloads) == 1 else self._order(namespace, frozenset(unloads), closed)
            if ordered is not None:
                unloads, order = tuple(ordered), rule.sorting.value
        closers = tuple(filter(None, (self._closers.find(by_address[address]) for address in unloads)))
        plan = Plan(
            library=self._describe(link_map),
            open_count=link_map.l_direct_opencount,
            close_count=times,
            outcome=outcome,
            unloads=tuple(self._describe(by_address[address]) for address in unloads),
            order_algorithm=order,
            order_certain=order is None or rule.certain,
            may_unload_more=tuple(closer.library for closer in closers),
            imports_unread=self._names(unloads, lambda each: self._closers.imports(each) is None),
            closers=closers,
            unload_bytes=sum(self._size(by_address[address]) for address in unloads),
            threads_inside=tuple(self._threads_inside(unloads)),
            threads_unknown=len(self._positions.unknown) if unloads else 0,
        )
        if brief:
            return plan
        after = self.examined.after({link_map.address: left})
        stays = [m for m in self.closure(link_map) if m.address not in unloads]
        for each in {*(by_address[address] for address in unloads), link_map, *stays}:
            self._files.state(each)  # notes the trouble of files that have changed
        keeps = tuple(after.verdict(m, identify=False) for m in stays)
        is_unloaded = link_map.address in unloads or link_map.address in self._condemned
        known = self._process.graph.complete and not is_unloaded and outcome is not Outcome.UNKNOWN
        remedy = find_remedy(after, link_map) if known else None
        return plan._replace(kept=keeps, remedy=remedy)

    def _order(
        self, namespace: Namespace, unloads: Collection[int], closed: Optional[LinkMap]
    ) -> Optional[Sequence[int]]:
        """Sort what a close unloads by its finalisers; None if that takes too long."""
        maps = [m for m in namespace.maps if m.address not in self._condemned]
        return finaliser_order(maps, self._process.graph, unloads, closed, self._order_rule, self._spend)

    @cached_property
    def _files(self) -> LoadedFiles:
        return LoadedFiles(self._process)

    @cached_property
    def _positions(self) -> Positions:
        """Return where all threads are, in the libraries that a close can unload."""
        process = self._process
        loaded = [m for m in process.graph.by_address.values() if m.l_type == LT_LOADED and not m.is_proxy]
        return find_positions(process.memory, process.graph, process.image, loaded)

    def _threads_inside(self, unloads: Sequence[int]) -> Iterator[ThreadInside]:
        """Yield the threads that are in code of unloaded libraries, by library."""
        for address in unloads:
            yield from self._inside.get(address, ())

    @cached_property
    def _inside(self) -> Mapping[int, Sequence[ThreadInside]]:
        """Return the threads that are in the code of each library."""
        found: dict[int, list[ThreadInside]] = {}
        for thread, certain, possible in self._positions.known:
            reference = ThreadRef(thread.number, thread.lwp, thread.name)
            for address in (*certain, *possible):
                name = self._process.name(self._process.graph.by_address[address])
                found.setdefault(address, []).append(ThreadInside(name, address, reference, address in certain))
        return found

    def _size(self, link_map: LinkMap) -> int:
        """Return the size of a library's mappings in bytes, in whole pages."""
        page = self._process.memory.target.auxv().get(AT_PAGESZ) or DEFAULT_PAGE_SIZE
        first, last = link_map.extent
        return max(0, -(-last // page) * page - first // page * page)

    def _describe(self, link_map: LinkMap) -> Library:
        if link_map.address not in self._described:
            self._process.concern(link_map)
            self._described[link_map.address] = self.examined.describe(link_map, identify=False)
        return self._described[link_map.address]

    def closure(self, link_map: LinkMap) -> list[LinkMap]:
        """Return a library and all that it keeps, without the libraries loaded at start."""
        by_address = self._process.graph.by_address

        def kept_by(address: int) -> Sequence[int]:
            each = by_address[address]
            return [other for other in (*each.needed, *each.relocated_to) if other in by_address and is_loaded(other)]

        def is_loaded(address: int) -> bool:
            return by_address[address].l_type == LT_LOADED and not by_address[address].is_proxy

        return [by_address[address] for address in Search([link_map.address], kept_by)]

    def _names(self, addresses: Sequence[int], condition: Callable[[LinkMap], bool]) -> tuple[str, ...]:
        """Return the names of the libraries, by their link maps' addresses, that meet a condition."""
        maps = (self._process.graph.by_address[address] for address in addresses)
        return tuple(self._process.name(each) for each in maps if condition(each))

    def can_close(self, link_map: LinkMap) -> bool:
        """Return True if a library imports dlclose, so that its destructors can close others, or if it is unread."""
        return self._closers.imports(link_map) is not False


class Ranking(Planner):
    """Predicts the closes of all open libraries; what they have in common is found once, not for each of them."""

    def __init__(self, examined: GlibcExamination) -> None:
        super().__init__(examined)
        self._shares: dict[int, _Shares] = {}

    def for_each_plan(self, maps: Sequence[LinkMap], closes: Optional[int]) -> Iterator[Plan]:
        """Predict in brief what closing each of several libraries would do, as far as the budget allows."""
        for link_map in maps:
            plan = self.plan(link_map, closes, brief=True)
            names = sum(len(library.name) + len(library.path or "") for library in plan.unloads)
            if not self._spend(_UNLOAD_UNITS * len(plan.unloads) + _TEXT_UNITS * names):
                return
            yield plan

    def _find_unloaded_of(self, namespace: Namespace, link_map: LinkMap) -> tuple[int, ...]:
        return self._shares_of(namespace).unloaded_with(link_map)

    def _order(
        self, namespace: Namespace, unloads: Collection[int], closed: Optional[LinkMap]
    ) -> Optional[Sequence[int]]:
        shares = self._shares_of(namespace)
        # A running close leaves out of the sort what it has condemned, which can need the others.
        if closed is None or self._condemned or shares.is_listed_elsewhere(closed):
            return super()._order(namespace, unloads, closed)
        return shares.orders.of(unloads, closed)

    def _shares_of(self, namespace: Namespace) -> _Shares:
        if namespace.number not in self._shares:
            self._spend(_MARKS_FOR_ALL * self._units)
            process = self._process
            kinds = mark(namespace, process.graph, process.rules)
            going = [address for address, kind in kinds.items() if kind == (RootKind.OPEN_COUNT,)]
            staying = [address for address, kind in kinds.items() if kind and kind != (RootKind.OPEN_COUNT,)]
            roots = find_sole_roots(process.graph.by_address, self.examined.kept.few_edges, going, staying)
            orders = FinaliserOrders(namespace.maps, process.graph, self._order_rule, self._spend)
            self._shares[namespace.number] = _Shares(process.graph, roots, tuple(self._unloadable(namespace)), orders)
        return self._shares[namespace.number]


class _Shares:
    """What each open library of a namespace keeps alone, and what nothing keeps."""

    def __init__(
        self, graph: Graph, roots: Mapping[int, Optional[int]], unloadable: Sequence[int], orders: FinaliserOrders
    ) -> None:
        """Create the shares.

        :param roots: the result of `find_sole_roots`.
        :param unloadable: the link maps that a close can unload, unless something keeps them, in list order.
        """
        self._graph = graph
        self._roots = roots
        self._places = {address: place for place, address in enumerate(unloadable)}
        self._garbage = [address for address in unloadable if address not in roots]
        self._own: dict[int, list[int]] = {}
        for address in unloadable:
            root = roots.get(address)
            if root is not None:
                self._own.setdefault(root, []).append(address)
        self.orders = orders

    def unloaded_with(self, link_map: LinkMap) -> tuple[int, ...]:
        """Return what goes with the last close of a link map, in list order."""
        own = self._own.get(link_map.address, [])
        return tuple(sorted([*own, *self._garbage], key=self._places.__getitem__) if self._garbage else own)

    def is_listed_elsewhere(self, link_map: LinkMap) -> bool:
        """Return True if a library lists one that goes with a link map, and does not go itself.

        A library that stays can do so only by the first entry of its list, which the collector passes over: that is the
        library itself, but for cycles.
        """
        return None in self._listed or link_map.address in self._listed

    @cached_property
    def _listed(self) -> Collection[Optional[int]]:
        """Return the roots whose libraries others list, None for those that nothing keeps."""
        found: set[Optional[int]] = set()
        garbage = set(self._garbage)
        for address, user in self._graph.by_address.items():
            if address in garbage:
                continue
            others = user.listed[:1] if address in self._roots else (*user.listed, *user.relocated_to)
            for other in others:
                root = self._roots.get(other)
                if other in garbage or (root is not None and root != self._roots.get(address)):
                    found.add(root)
        return found


def find_remedy(after: GlibcExamination, link_map: LinkMap) -> Remedy:
    """Find the least that must happen for a library to be unloaded.

    A library stays if and only if a root of the mark phase leads to it, so all these roots, and only they, must cease.

    :param after: the process as the planned closes leave it.
    """
    roots = list(_roots(after, link_map))
    for root in roots:
        if after.kept.is_permanent(root.address):
            library = after.verdict(root, identify=False)
            lasting = tuple(h for h in library.holds if h.kind in PERMANENT or (h.never_ends and not h.chain))
            return Remedy(blocker=library._replace(holds=lasting), rebuild=after.rebuild(link_map))
    exits: list[Step] = []
    closes: list[Step] = []
    for root in roots:
        kinds = after.kept.marks[root.address]
        name = after.process.name(root)
        if RootKind.TLS_DESTRUCTORS in kinds:
            threads = after.destructors.threads(root)
            owed = root.l_tls_dtor_count or 0
            unseen = max(0, owed - len(after.destructors.of(root)))
            exits.append(Step(Action.THREAD_EXIT, name, root.address, root.l_ns, owed, threads, unseen))
        if RootKind.OPEN_COUNT in kinds:
            action = Action.LIBC_CLOSE if opened_by(root.name) == "libc" else Action.CLOSE
            closes.append(Step(action, name, root.address, root.l_ns, after.kept.open_count(root)))
    steps = [*exits, *closes]
    if not closes:
        steps.append(Step(Action.COLLECT, after.process.name(link_map), link_map.address, link_map.l_ns))
    return Remedy(tuple(steps))


def _roots(after: GlibcExamination, link_map: LinkMap) -> Iterator[LinkMap]:
    """Yield the roots that keep a link map, the nearest first, starting with the link map itself if it is one."""
    for address in Search([link_map.address], lambda each: after.kept.holders.get(each, ())):
        if after.kept.marks.get(address):
            yield after.process.graph.by_address[address]
