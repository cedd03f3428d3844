"""Why does FreeLibrary not unload this DLL?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Optional, cast

from ..errors import IncompleteSearchError, NotFoundError, UnsupportedError
from ..graph import Search
from ..memory import Memory
from ..model import Evidence, LoaderInfo, Problem, TargetInfo
from ..paths import GLOB_CHARACTERS, windows_base_name
from ..target import Capability, KernelTarget, Target
from .holders import HolderSearch
from .loader.doubts import find_doubts
from .loader.lists import (
    CORE_DLLS,
    ENTRY_FIELDS,
    FLAG_COR_IMAGE,
    FLAG_MARKED_FOR_REMOVAL,
    FLAG_PROCESS_STATIC_IMPORT,
    FLAG_SHIM_DLL,
    FLAG_STATIC_LINK_WIN7,
    FLAG_VERIFIER_PROVIDER,
    INIT_ERROR,
    LOAD_REASONS,
    NO_PEB,
    NODE_FIELDS,
    NOT_WINDOWS,
    PINNED,
    PINNED_16,
    READY_TO_RUN,
    SNAP_ERROR,
    STATES,
    UNLOADED,
    UNLOADING,
    LdrEntry,
    Loader,
    find_loaders,
)
from .loader.unload import ImportGraph, LoadUnit, build_import_graph, effective_count
from .model import Dll, DllHold, DllHoldKind, DllState, ListedImage, ListPositions, LoaderRule, LoaderRules
from .target import LOADER_NAMES, WindowsTarget

MAX_DEPENDENCY_HOLDS = 16
#: For at most this many DLLs at once it is searched whose their loads are.
MAX_HELD = 8
#: Chains of more names are shortened.
MAX_CHAIN = 62
#: Maximum number of names that are compared to find similar ones.
MAX_COMPARED = 4096

# Costs of a reported DLL, of one in brief, of a step from importer to importer, of a name in lists and chains, and of
# each character, in Memory's units.
_DLL_UNITS = 5000
_BRIEF_DLL_UNITS = 2000
_STEP_UNITS = 4
_NAME_UNITS = 25
_TEXT_UNITS = 8
#: The first build whose Flags mark a verifier's provider.
_VERIFIER_BUILD = 26100
#: Windows 8 and 8.1 free with an older function, which was not examined.
_FIRST_KNOWN_GRAPH_BUILD = 10240
#: LoadReasons of DLLs that were loaded at run time.
_DYNAMIC_REASONS = frozenset({2, 3, 4})
# Windows 7 maps its table of API sets into every process as an image; it is in no list of the loader's.
_API_SETS = "apisetschema.dll"

_OWN = (
    DllHoldKind.MAIN_PROGRAM,
    DllHoldKind.STATIC_IMPORT,
    DllHoldKind.PINNED,
    DllHoldKind.LOAD_COUNT,
    DllHoldKind.LOADING,
)
#: States of a node that leads to its unload.
_GOING = frozenset({UNLOADING, UNLOADED, INIT_ERROR, SNAP_ERROR})
#: What States mean that are neither ReadyToRun nor a running load.
_STATE_WORDS = {
    INIT_ERROR: "its DllMain refused DLL_PROCESS_ATTACH, so its LoadLibrary fails and unloads it",
    SNAP_ERROR: "an import of it was not found, so its LoadLibrary fails and unloads it",
}


class WindowsExamination:
    """The verdicts on one process's DLLs, from one read of its loaders."""

    def __init__(self, target: Target, pid: Optional[int] = None) -> None:
        """Read the loaders of a process.

        :param pid: a process of a machine, or the target's own id; None for the current one.
        :raises UnsupportedError: if the target is not a Windows process.
        :raises NotFoundError: if the machine has no such process, or the target is another one.
        """
        if target.platform.os != "windows":
            raise UnsupportedError(NOT_WINDOWS)
        wow64_peb: Optional[int] = None
        no_peb = NO_PEB
        self._has_no_loader = False
        if Capability.KERNEL in target.capabilities:
            from .kernel.usermode import open_process

            process = open_process(cast(KernelTarget, target), pid)
            target, wow64_peb, no_peb = process, process.wow64_peb(), process.reason_without_peb()
            self._has_no_loader = process.has_no_loader
        elif pid is not None and pid != target.pid:
            own = "one process, whose id it does not have" if target.pid is None else f"process {target.pid} alone"
            raise NotFoundError(f"there is no process {pid}: {target.description} is of {own}")
        self.target = cast(WindowsTarget, target)
        self.memory = Memory(target)
        self.loaders, problems = find_loaders(self.memory, self.target, wow64_peb, no_peb)
        self.images: Mapping[int, ListedImage] = {image.base: image for image in self.target.images()}
        for loader in self.loaders:
            find_doubts(loader, self.images)
        self.problems = [*target.problems(), *problems]
        unread = any(problem.where in LOADER_NAMES.values() for problem in self.problems)
        self._all_loaders_read = bool(self.loaders) and self.loaders[0].kind == "native" and not unread
        self._take_names()
        self.import_graphs = [build_import_graph(loader) for loader in self.loaders]
        self._explainers = [DllExplainer(loader, graph) for loader, graph in zip(self.loaders, self.import_graphs)]
        for loader, graph, explainer in zip(self.loaders, self.import_graphs, self._explainers):
            self.problems += _graph_problems(loader, graph, explainer)
        self.problems += self._compare_with_images()
        self.problems += [
            Problem(entry.label, f"{text}: whether it stays is not known")
            for loader in self.loaders
            for entry in loader.entries.values()
            for text in entry.doubts
        ]

    def dlls(self, *, brief: bool = False) -> list[Dll]:
        """Describe every DLL, the native loader's first, in load order.

        :param brief: leave out what a table does not show, as `DllExplainer.describe` does.
        """
        found = []
        for explainer in self._explainers:
            found += [
                explainer.describe(entry, self.images.get(entry.base), brief=brief)
                for entry in explainer.loader.in_load_order()
            ]
        if not all(loader.complete for loader in self.loaders) or not self.loaders:
            listed = {dll.base for dll in found}
            program, *others = self.target.images() or (None,)
            # Debuggers and dumps order the others differently.
            images = [*([program] if program else []), *sorted(others, key=lambda image: image.base)]
            found += [_from_image(image, image is program) for image in images if image.base not in listed]
        return found

    def _take_names(self) -> None:
        """Set the names that cannot be read from entries to those of the module list."""
        for loader in self.loaders:
            for entry in loader.entries.values():
                if not entry.name and entry.base in self.images:
                    entry.name = windows_base_name(self.images[entry.base].path)

    def choose(self, dlls: Sequence[Dll], text: str, evaluate: Callable[[str], int]) -> tuple[Dll, ...]:
        """Find the DLLs that a name, pattern or expression names, as `select_dlls` does.

        :raises NotFoundError: if none fits.
        :raises IncompleteSearchError: if none fits, but not all DLLs are known, or not all names.
        """
        try:
            return select_dlls(dlls, text, evaluate)
        except NotFoundError as error:
            gaps = self.gaps(dlls)
            if not gaps:
                error.add(self.all_problems())
                raise
            failure = IncompleteSearchError(f"no DLL that is known matches '{text}', but not all are known", error.near)
            failure.add((*gaps, *self.all_problems()))
            raise failure from error

    def gaps(self, dlls: Sequence[Dll]) -> list[Problem]:
        """Return why a DLL can be missing among those that are known, or its name; empty if none is."""
        if self._has_no_loader:
            return []
        gaps = []
        if not all(loader.complete for loader in self.loaders):
            gaps.append(Problem("the loader's lists", "they are not complete"))
        elif not self._all_loaders_read and not self.target.images_complete:
            gaps.append(Problem("DLLs", "neither the loader's lists nor the list of modules can be read completely"))
        nameless = sum(dll.name == f"{dll.base:#x}" for dll in dlls)
        if nameless:
            gaps.append(Problem("DLLs", f"the names of {nameless} cannot be read"))
        return gaps

    def with_holders(self, dlls: Sequence[Dll]) -> tuple[Dll, ...]:
        """Add to the loads of DLLs that were asked about those whose loads they are; many DLLs stay as they are."""
        if len(dlls) > MAX_HELD:
            return tuple(dlls)
        return tuple(self._with_holders(dll) for dll in dlls)

    def _with_holders(self, dll: Dll) -> Dll:
        if not any(hold.kind is DllHoldKind.LOAD_COUNT for hold in dll.holds):
            return dll
        loader, graph, entry = self.find(dll)
        search = HolderSearch(self.target, loader, graph)
        holders = search.find(entry)
        self.problems += [problem for problem in search.problems if problem not in self.problems]
        holds = (h._replace(holders=holders) if h.kind is DllHoldKind.LOAD_COUNT else h for h in dll.holds)
        return dll._replace(holds=tuple(holds))

    def find(self, dll: Dll) -> tuple[Loader, ImportGraph, LdrEntry]:
        """Find the loader and entry that a description came from.

        :raises UnsupportedError: if the loader's lists could not be read.
        """
        for loader, graph in zip(self.loaders, self.import_graphs):
            if loader.kind == dll.loader and dll.ldr_entry in loader.entries:
                return loader, graph, loader.entries[dll.ldr_entry]
        raise UnsupportedError("the loader's lists are not in the dump: dump with memory (.dump /ma) to have them")

    def in_full(self, dlls: Sequence[Dll]) -> tuple[Dll, ...]:
        """Describe DLLs that were described in brief."""
        return tuple(self._in_full(dll) for dll in dlls)

    def _in_full(self, dll: Dll) -> Dll:
        for explainer in self._explainers:
            entry = explainer.loader.entries.get(dll.ldr_entry)
            if explainer.loader.kind == dll.loader and entry is not None:
                return explainer.describe(entry, self.images.get(entry.base))
        return dll

    def state(self, *, brief: bool = False) -> DllState:
        """Return the answer of ``dllstate``.

        :param brief: leave out what a table does not show.
        """
        shutdowns = [loader.shutdown for loader in self.loaders if loader.shutdown is not None]
        return DllState(
            self.target_info(),
            self.loader_info(),
            self.rules(),
            tuple(self.dlls(brief=brief)),
            any(shutdowns) if shutdowns else None,
            self.loaders[0].lock_owner if self.loaders else None,
            problems=self.all_problems(),
        )

    def all_problems(self) -> tuple[Problem, ...]:
        """Return the problems met so far."""
        late = [problem for problem in self.target.problems() if problem not in self.problems]
        return (*self.problems, *late, *self.memory.problems())

    def target_info(self) -> TargetInfo:
        """Return the description of the target."""
        target = self.target
        return TargetInfo(target.kind, target.platform.os, target.platform.arch, target.pid, target.description)

    def loader_info(self) -> LoaderInfo:
        """Return the description of the loader."""
        source = self.loaders[0].source if self.loaders else None
        system = self.loaders[0].version if self.loaders else self.target.system
        return LoaderInfo("nt", str(system) if system.build else None, source)

    def rules(self) -> tuple[LoaderRules, ...]:
        """Return the rule that each loader follows."""
        found = []
        for loader in self.loaders:
            reason = loader.rule_reason
            if loader.rule is LoaderRule.WIN8 and 0 < loader.version.build < _FIRST_KNOWN_GRAPH_BUILD:
                reason += "; frees by the rule of Windows 10"
            found.append(LoaderRules(loader.kind, loader.rule, reason))
        return tuple(found)

    def _compare_with_images(self) -> Iterable[Problem]:
        """Yield where the loader's lists and the debugger's or dump's module list disagree."""
        listed = {entry.base: entry for loader in self.loaders for entry in loader.entries.values()}
        if not listed:
            return
        for base, image in self.images.items():
            entry, name = listed.get(base), windows_base_name(image.path)
            if entry is None:
                if name.lower() != _API_SETS and all(loader.complete for loader in self.loaders):
                    yield Problem(
                        name or f"{base:#x}",
                        f"mapped at {base:#x}, but in no list of the loader's: mapped as data, or taken out of them",
                    )
                continue
            if image.path and entry.name and name.lower() not in (entry.name.lower(), ""):
                yield Problem(entry.name, f"the loader's name is not that of the mapped file, {name}")
            stamp = entry.timestamp
            if stamp and image.timestamp and stamp != image.timestamp:
                yield Problem(
                    entry.name,
                    f"the loader's TimeDateStamp {stamp:#x} is not the module's {image.timestamp:#x}: replaced on disk",
                )


def explain_dlls(target: Target, pid: Optional[int] = None, *, brief: bool = False) -> DllState:
    """Examine all DLLs of a Windows process.

    :param pid: a process of a machine, None for the current one.
    :param brief: leave out what a table does not show: fields, the names of imports and importers, all holds but the
        strongest, and of chains all but the ends.
    :raises UnsupportedError: if the target is not a Windows process.
    :raises NotFoundError: if the target has no such process.
    """
    return WindowsExamination(target, pid).state(brief=brief)


def explain_chosen_dlls(
    target: Target, text: str, evaluate: Callable[[str], int], pid: Optional[int] = None
) -> DllState:
    """Examine the DLLs of a Windows process that match a name, pattern or expression.

    :param evaluate: returns the value of an expression.
    :param pid: a process of a machine, None for the current one.
    :raises UnsupportedError: if the target is not a Windows process.
    :raises NotFoundError: if the target has no such process, or no DLL fits; an IncompleteSearchError if not all DLLs
        are known.
    """
    examined = WindowsExamination(target, pid)
    state = examined.state(brief=True)
    chosen = examined.with_holders(examined.in_full(examined.choose(state.dlls, text, evaluate)))
    return state._replace(dlls=chosen, asked=text, problems=examined.all_problems())


def select_dlls(dlls: Sequence[Dll], text: str, evaluate: Callable[[str], int]) -> tuple[Dll, ...]:
    """Find the DLLs that a base name with or without .dll, end of a path, pattern or expression names, in any case.

    :raises NotFoundError: if none fits; has similar names.
    """
    wanted = text.lower().replace("/", "\\")
    found = tuple(dll for dll in dlls if dll.name.lower() in (wanted, f"{wanted}.dll"))
    if not found and "\\" in wanted:
        suffix = "\\" + wanted.lstrip("\\")
        found = tuple(dll for dll in dlls if dll.path.lower() == wanted or dll.path.lower().endswith(suffix))
    if not found and not GLOB_CHARACTERS.isdisjoint(wanted):
        import fnmatch

        found = tuple(dll for dll in dlls if fnmatch.fnmatchcase(dll.name.lower(), wanted))
    found = found or _by_expression(dlls, text, evaluate)
    if found:
        return found
    import difflib

    lowered = {dll.name.lower(): dll.name for dll in dlls[:MAX_COMPARED]}
    near = [lowered[each] for each in difflib.get_close_matches(wanted, list(lowered), n=3, cutoff=0.5)]
    raise NotFoundError(f"no loaded DLL matches '{text}'", near)


def _by_expression(dlls: Sequence[Dll], text: str, evaluate: Callable[[str], int]) -> tuple[Dll, ...]:
    """Find the DLL whose entry or image holds an address; the low bits of a handle are flags."""
    try:
        address = evaluate(text)
    except NotFoundError:
        return ()  # it is a name, which the caller has looked for
    entries = tuple(dll for dll in dlls if dll.ldr_entry and dll.ldr_entry == address)
    return entries or tuple(dll for dll in dlls if dll.start <= address < dll.end)


def _from_image(image: ListedImage, is_first: bool) -> Dll:
    """Describe a module that is only in the module list."""
    holds = (DllHold(DllHoldKind.MAIN_PROGRAM),) if is_first else ()
    return Dll(
        name=windows_base_name(image.path) or f"{image.base:#x}",
        path=image.path,
        base=image.base,
        start=image.base,
        end=image.base + image.size,
        loader="native",
        ldr_entry=0,
        ddag_node=0,
        list_positions=ListPositions(),
        fields={},
        load_reason=None,
        ddag_state=None,
        first_loaded_by=None,
        imports=None,
        importers=None,
        import_cycle=None,
        held=True if is_first else None,
        holds=holds,
    )


def _graph_problems(loader: Loader, graph: ImportGraph, explainer: DllExplainer) -> Iterable[Problem]:
    for unit in graph.units.values():
        name = explainer.name(unit.key)
        is_going = explainer.is_unloading(unit)
        if unit.own is not None and unit.own < 0 and unit.count is not None and not unit.pinned and not is_going:
            if graph.rule is LoaderRule.WINE:
                continue  # an import found while its target was being linked has an edge, but its count is lost
            yield Problem(
                name,
                f"its count was over-freed: it is {unit.count}, but {len(unit.parents)} of its importers are loaded",
            )
        elif unit.count == 0 and graph.rule is LoaderRule.WIN8 and not is_going:
            yield Problem(name, "its LoadCount is 0, but its State is not one of unloading")
    for unit in graph.units.values():
        words = _state_words(loader, explainer, unit)
        if words:
            yield Problem(explainer.name(unit.key), words)
    for component in graph.uneven:
        names = [explainer.name(key) for key in component]
        if len(component) == 1:
            unit, due = graph.units[component[0]], graph.due[component[0]]
            text = f"its count is {unit.count}, but loads of its importers account for {due}"
        else:
            text = f"the counts of {', '.join(names[:4])}, which import one another, do not come out even"
        yield Problem(names[0], f"{text}: which loads are its own is not known")
    if graph.unread:
        names = [loader.entries[address].name for address in sorted(graph.unread)]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        what = "edges" if graph.rule is LoaderRule.WINE else "import tables"
        yield Problem(what, f"not in memory for {', '.join(names[:3])}{more}: not all importers are known")


def _state_words(loader: Loader, explainer: DllExplainer, unit: LoadUnit) -> str:
    """Return why a unit is neither ready nor simply being unloaded; empty if it is."""
    state = explainer.state(unit)
    if unit.is_doubted:
        return ""
    if state in _STATE_WORDS:
        return f"its State is {STATES[state]}: {_STATE_WORDS[state]}"
    if state in (UNLOADING, UNLOADED) and unit.count and not unit.pinned:
        return f"its State is {STATES[state]}, but its LoadCount is {unit.count}"
    if explainer.is_loading(unit):
        owner = loader.lock_owner
        inside = f"; thread {owner:#x} owns the loader lock" if owner else ""
        why = "it is being loaded" if state is None else f"its State is {STATES[state]}"
        return f"{why}: a LoadLibrary of it, or of what imports it, has not returned{inside}"
    if state is None or state == READY_TO_RUN or explainer.is_unloading(unit):
        return ""
    return f"its State is {STATES.get(state, state)}, not ReadyToRun: the loader is at work"


class DllExplainer:
    """Explains why the DLLs of one loader stay, given one state of its counts."""

    def __init__(self, loader: Loader, graph: ImportGraph) -> None:
        self.loader = loader
        self.graph = graph
        main = graph.by_entry.get(loader.main.address) if loader.main else None
        # In a damaged dump a simulated free can unload even the program.
        self._main = main if main in graph.units else None
        self._by_base = {entry.base: entry for entry in loader.entries.values()}
        self._kinds: dict[int, tuple[DllHoldKind, ...]] = {}
        self._parents: dict[int, Sequence[int]] = {}
        self._has_doubts = any(unit.is_doubted for unit in graph.units.values())
        self._held: Optional[Search[int]] = None
        self._from_main: Optional[Search[int]] = None

    # -- names ------------------------------------------------------------------------------------------------

    def name(self, key: int) -> str:
        """Return a unit's name, which is its first module's."""
        unit = self.graph.units.get(key)
        return unit.entries[0].label if unit else f"{key:#x}"

    def state(self, unit: LoadUnit) -> Optional[int]:
        """Return the state of a unit's node, None before Windows 8."""
        node = unit.entries[0].node
        return node.state if node and self.graph.rule is LoaderRule.WIN8 else None

    def is_unloading(self, unit: LoadUnit) -> bool:
        """Return True if a unit is being unloaded."""
        if unit.is_doubted:
            return False
        if self.graph.rule is not LoaderRule.WIN8:
            return unit.count == 0 and not any(map(self.loader.is_loading, unit.entries))
        flags = any(entry.has_flag(FLAG_MARKED_FOR_REMOVAL) for entry in unit.entries)
        return flags or self.state(unit) in _GOING

    def is_loading(self, unit: LoadUnit) -> bool:
        """Return True if a LoadLibrary of a unit has not returned: its count is not final."""
        return any(map(self.loader.is_loading, unit.entries)) and not self.is_unloading(unit)

    # -- holds ------------------------------------------------------------------------------------------------

    def own_holds(self, unit: LoadUnit, *, brief: bool = False) -> list[DllHold]:
        """Return the holds that a unit has itself, not through an importer.

        :param brief: of chains leave out all but the ends.
        """
        first = unit.entries[0]
        if unit.is_doubted:
            return []
        if unit.key == self._main:
            return [DllHold(DllHoldKind.MAIN_PROGRAM, self._count_evidence(unit))]
        holds = []
        static = self._static_import(unit, brief)
        if static:
            holds.append(static)
        elif unit.pinned:
            holds.append(self._pin(unit, brief))
        elif self.is_loading(unit):
            return [DllHold(DllHoldKind.LOADING, self._loading_evidence(unit))]
        if not unit.pinned and unit.count is not None and self.graph.rule is not LoaderRule.WIN8 and unit.own is None:
            if unit.count:
                holds.append(DllHold(DllHoldKind.LOAD_COUNT, self._count_evidence(unit)))
        elif not unit.pinned and (unit.own or 0) > 0:
            holds.append(DllHold(DllHoldKind.LOAD_COUNT, self._count_evidence(unit), total=unit.own))
        if self.is_unloading(unit):
            evidence = first.node_evidence("State") if self.graph.rule is LoaderRule.WIN8 else ()
            return [DllHold(DllHoldKind.UNLOADING, evidence or self._count_evidence(unit))]
        return holds

    def _count_evidence(self, unit: LoadUnit) -> tuple[Evidence, ...]:
        first = unit.entries[0]
        if self.graph.rule is LoaderRule.WIN8 and first.node:
            return first.node_evidence("LoadCount")
        return first.record.evidence(first.count_field)

    def _loading_evidence(self, unit: LoadUnit) -> tuple[Evidence, ...]:
        first = unit.entries[0]
        is_graph = self.graph.rule is LoaderRule.WIN8
        return first.node_evidence("State") if is_graph else first.record.evidence("Flags")

    def _static_import(self, unit: LoadUnit, brief: bool) -> Optional[DllHold]:
        """Return the hold of a static import: the DLL is in the closure of the program's imports."""
        first = unit.entries[0]
        if self.graph.rule is LoaderRule.WIN8:
            if not first.has_flag(FLAG_PROCESS_STATIC_IMPORT):
                return None
            evidence = first.record.evidence("Flags")
        elif unit.pinned and first.name.lower() not in CORE_DLLS and unit.key in self._find_from_main().before:
            evidence = self._count_evidence(unit)
        else:
            return None
        search = self._find_from_main()
        chain = self._ends(search, unit.key) if brief else self._chain(search, unit.key)
        return DllHold(DllHoldKind.STATIC_IMPORT, evidence, chain=chain)

    def _find_from_main(self) -> Search[int]:
        """Find the shortest chain to each unit from the program along the imports."""
        if self._from_main is None:
            self._from_main = Search([] if self._main is None else [self._main], self.graph.children).run()
        return self._from_main

    def _chain(self, search: Search[int], key: int) -> tuple[str, ...]:
        """Return the names from the root to a unit; the middle of a long chain is omitted."""
        way = self._way(search, key)
        names = [self.name(each) for each in way]
        if way and way[-1] != search.starts[key]:
            names += ["…", self.name(search.starts[key])]
        return tuple(reversed(names)) if self._spend(names) else ()

    def _ends(self, search: Search[int], key: int) -> tuple[str, ...]:
        """Return the names of the root of a unit and of the unit, which can be one; empty without a chain."""
        if key not in search.before:
            return ()
        return tuple(self.name(each) for each in dict.fromkeys((search.starts[key], key)))

    def _way(self, search: Search[int], key: int) -> list[int]:
        """Return a unit, and those that it was reached through, as many as chains have names."""
        if key not in search.before:
            return []
        way = [key]
        while search.before[key] != key and len(way) < MAX_CHAIN:
            key = search.before[key]
            way.append(key)
        return way

    def _step(self, count: int) -> None:
        self.loader.memory.spend(_STEP_UNITS * count, "chains and lists of DLLs")

    def _spend(self, names: Sequence[str]) -> bool:
        units = _NAME_UNITS * len(names) + _TEXT_UNITS * sum(map(len, names))
        return self.loader.memory.spend(units, "chains and lists of DLLs")

    def _pin(self, unit: LoadUnit, brief: bool) -> DllHold:
        first = unit.entries[0]
        evidence = self._count_evidence(unit)
        origin = "unknown"
        chain: tuple[str, ...] = ()
        reason = first.record.get("LoadReason")
        if first.name.lower() in CORE_DLLS:
            origin = "loader"
        elif self.graph.rule is LoaderRule.WIN8:
            build = self.loader.version.build
            if first.has_flag(FLAG_SHIM_DLL):
                origin = "shim"
            elif first.has_flag(FLAG_VERIFIER_PROVIDER) and build >= _VERIFIER_BUILD:
                origin = "verifier"
            else:
                chain = self._pinned_importers(unit, brief)
                if chain:
                    origin = "inherited"
                elif first.has_flag(FLAG_COR_IMAGE):
                    origin = "clr"
                elif first.node is not None and reason in _DYNAMIC_REASONS:
                    origin = "explicit"
                elif first.node is not None and reason == 0:
                    origin = "loader"
        elif self.graph.rule is LoaderRule.WINE:
            origin = "explicit"
        elif first.has_flag(FLAG_STATIC_LINK_WIN7):
            chain = self._pinned_importers(unit, brief)
            origin = "inherited" if chain else "unknown"
        return DllHold(DllHoldKind.PINNED, evidence, origin=origin, chain=chain)

    def _pinned_importers(self, unit: LoadUnit, brief: bool) -> tuple[str, ...]:
        """Follow pinned importers upwards; return the names from the topmost to this one, "…" at a limit."""
        way = {unit.key: None}
        key: Optional[int] = unit.key
        while key is not None and len(way) < MAX_CHAIN + 2:
            key = next((each for each in self._pinned_parents(key) if each not in way), None)
            if key is not None:
                way[key] = None
        self._step(len(way))
        names = [self.name(each) for each in way]
        if len(names) > MAX_CHAIN + 1:
            names[-1] = "…"
        if len(names) > 1 and (brief or not self._spend(names)):
            names = [names[0], names[-1]]
        return tuple(reversed(names)) if len(names) > 1 else ()

    def _pinned_parents(self, key: int) -> Sequence[int]:
        """Return the pinned importers of a unit, except the program."""
        if key not in self._parents:
            self._parents[key] = [
                each
                for each in dict.fromkeys(self.graph.units[key].parents)
                if each in self.graph.units and each != self._main and self._is_count_pinned(each)
            ]
        return self._parents[key]

    def _is_count_pinned(self, key: int) -> bool:
        unit = self.graph.units[key]
        return unit.count == (PINNED if self.graph.rule is LoaderRule.WIN8 else PINNED_16)

    def _find_held(self) -> Search[int]:
        """Find the shortest chain to each unit from a unit that stays by itself."""
        if self._held is None:
            for key, unit in self.graph.units.items():
                own = tuple(hold.kind for hold in self.own_holds(unit, brief=True) if hold.kind in _OWN)
                if own:
                    self._kinds[key] = own
            # A permanent unit is preferred as a chain's root to one that is only loaded.
            roots = sorted(self._kinds, key=lambda key: _OWN.index(self._kinds[key][0]))
            self._held = Search(roots, self.graph.children).run()
        return self._held

    def holds(self, unit: LoadUnit) -> tuple[tuple[DllHold, ...], int]:
        """Return a unit's holds, strongest first, and the number of further importers."""
        own = self.own_holds(unit)
        importers = self._holding_importers(unit)
        dependencies = []
        for key in importers[:MAX_DEPENDENCY_HOLDS]:
            chain: tuple[str, ...] = (self.name(key), self.name(unit.key))
            kinds = self._root_kinds(unit, key)
            if kinds:
                above = self._chain(self._find_held(), key)
                chain, kinds = ((*above, self.name(unit.key)), kinds) if above else (chain, ())
            if not self._spend(chain[-2:]):  # the names above are charged
                break
            evidence = unit.entries[0].node_evidence("IncomingDependencies")
            dependencies.append(DllHold(DllHoldKind.DEPENDENCY, evidence, chain=chain, root_kinds=kinds))
        return (*own, *dependencies), len(importers) - len(dependencies)

    def strongest(self, unit: LoadUnit) -> tuple[tuple[DllHold, ...], int]:
        """Return the first of a unit's holds with the ends of its chain, and the number of the others."""
        own = self.own_holds(unit, brief=True)
        importers = self._holding_importers(unit)
        total = len(own) + len(importers)
        if importers and not own:
            key = importers[0]
            kinds = self._root_kinds(unit, key)
            self._step(MAX_CHAIN)
            above = self._ends(self._find_held(), key) if kinds else (self.name(key),)
            own = [DllHold(DllHoldKind.DEPENDENCY, (), chain=(*above, self.name(unit.key)), root_kinds=kinds)]
        return tuple(own[:1]), max(0, total - 1)

    def _holding_importers(self, unit: LoadUnit) -> Sequence[int]:
        """Return the importers that keep a unit, none if its count alone decides, or it is not known."""
        if unit.is_doubted or unit.pinned or unit.key == self._main or self.is_unloading(unit):
            return ()
        return list(dict.fromkeys(key for key in unit.parents if key in self.graph.units and key != unit.key))

    def _root_kinds(self, unit: LoadUnit, importer: int) -> tuple[DllHoldKind, ...]:
        """Return why the root of an importer stays; empty if nothing is known that keeps it but through the unit."""
        held = self._find_held()
        way = self._way(held, importer)
        # In a cycle the importer's chain can lead through this unit: then it explains nothing.
        if not way or unit.key in way or unit.key == held.starts[importer]:
            return ()
        return self._kinds[held.starts[importer]]

    def held(self, unit: LoadUnit, holds: Sequence[DllHold]) -> Optional[bool]:
        """Return whether a unit stays, None if unknown."""
        if self.is_unloading(unit):
            return False
        if holds:
            return True if self._is_surely_held(unit, holds) else None
        return None

    def _is_surely_held(self, unit: LoadUnit, holds: Sequence[DllHold]) -> bool:
        """Return True unless everything that keeps a unit does so through units that are contradicted."""
        if any(hold.kind is not DllHoldKind.DEPENDENCY for hold in holds):
            return True
        if not self._has_doubts:
            return True
        units = self.graph.units
        doubted: list[int] = []

        def importers(key: int) -> Sequence[int]:
            found = self.graph.parents(key)
            doubted.extend(each for each in found if units[each].is_doubted)
            return [each for each in found if not units[each].is_doubted]

        def spend(count: int) -> bool:
            return self.loader.memory.spend(_NAME_UNITS * (1 + count), "what is known of importers")

        self._find_held()
        return any(key in self._kinds for key in Search([unit.key], importers, spend)) or not doubted

    # -- one DLL ----------------------------------------------------------------------------------------------

    def describe(self, entry: LdrEntry, image: Optional[ListedImage] = None, *, brief: bool = False) -> Dll:
        """Describe a DLL.

        :param brief: leave out fields, the names of imports and importers, all holds but the strongest, and of chains
            all but the ends.
        """
        self.loader.memory.spend(_BRIEF_DLL_UNITS if brief else _DLL_UNITS, "DLLs")
        unit = self.graph.unit_of(entry)
        holds, omitted = self.strongest(unit) if brief else self.holds(unit)
        record = entry.record
        reason = record.get("LoadReason") if self.graph.rule is LoaderRule.WIN8 else None
        state = self.state(unit)
        parent = self._by_base.get(entry.parent_base) if entry.parent_base else None
        path = entry.path or (image.path if image else "")
        return Dll(
            name=entry.label,
            path=path,
            base=entry.base,
            start=entry.base,
            end=entry.base + entry.size,
            loader=self.loader.kind,
            ldr_entry=entry.address,
            ddag_node=entry.node.address if entry.node else 0,
            list_positions=ListPositions(
                entry.orders.get("load"), entry.orders.get("memory"), entry.orders.get("initialization")
            ),
            fields={} if brief else self._fields(entry),
            load_reason=None if reason is None else LOAD_REASONS.get(reason, str(reason)),
            ddag_state=None if state is None else STATES.get(state, str(state)),
            first_loaded_by=parent.label if parent and parent is not entry else None,
            imports=None if brief else self._names(unit.children, self.graph.knows_imports(entry)),
            importers=None if brief else self._names(unit.parents, self.graph.knows_importers(entry)),
            import_cycle=None if brief else self._cycle(unit, entry),
            held=self.held(unit, holds),
            holds=holds,
            holds_omitted=omitted,
            load_count=effective_count(unit, self.graph.rule),
            loadlibrary_count=None if unit.pinned or self.is_loading(unit) else unit.own,
        )

    def _fields(self, entry: LdrEntry) -> dict[str, Optional[int]]:
        """Return the members of a DLL's structures as numbers."""
        record = entry.record
        fields = {name: record.get(name) for name in ENTRY_FIELDS if name in record.layout.fields}
        if entry.node is not None:
            count = fields.pop("LoadCount", None)
            fields.update((name, entry.node.record.get(name)) for name in NODE_FIELDS)
            if count is not None:
                fields["ObsoleteLoadCount"] = count
        elif self.loader.layouts.has_graph:
            fields.update(dict.fromkeys(NODE_FIELDS))
        return fields

    def _names(self, keys: Sequence[int], is_complete: bool) -> Optional[tuple[str, ...]]:
        """Return the names of units; None if there can be some, but none is known."""
        names = tuple(self.name(key) for key in dict.fromkeys(keys) if key in self.graph.units)
        return names if self._spend(names) and (names or is_complete) else None

    def _cycle(self, unit: LoadUnit, entry: LdrEntry) -> Optional[tuple[str, ...]]:
        """Return the names of the other modules of a DLL's node; None if there is none, or it cannot be read."""
        if self.graph.rule is not LoaderRule.WIN8 or entry.node is None:
            return None
        names = tuple(each.label for each in unit.entries if each is not entry)
        return names if names or not entry.node.cut else None
