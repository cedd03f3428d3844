"""Which facts about a glibc process are read once, for all questions about it?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Optional

from ...errors import DlwhyError
from ...memory import Memory
from ...model import LoaderInfo, Problem
from ...paths import base_name
from ..auxv import AT_SYSINFO_EHDR
from ..elf.image import DT_SONAME, ElfImage, ElfImages
from ..layouts.resolve import LayoutSet
from ..loader.agreement import HeaderAgreement
from ..loader.collector import CollectorRules
from ..loader.find import LoaderGlobals
from ..loader.layout import choose_layouts, header_contradictions, overwritten_words
from ..loader.maps import Graph, LinkMap, Namespace, read_load_lock
from ..loader.rendezvous import Rendezvous
from ..loader.roots import LT_EXECUTABLE
from ..model import CodeSymbol
from .build_ids import BuildIds
from .naming import is_vdso, main_program_path, vdso_name
from .symbols import BindingCache, FunctionNames

#: At most this many libraries are named in one problem.
_MAX_NAMES = 8


def read_process(memory: Memory, start: Rendezvous, private: LoaderGlobals) -> GlibcProcess:
    """Read a process: choose the layouts that fit it, and read its libraries by them.

    :raises LayoutError: if no known layout of glibc fits.
    """
    choice = choose_layouts(memory, start, private)
    # If glibc's own lists are complete, the public part of the first one is complete too.
    of_lists = (*start.problems, *choice.graph.problems) if choice.graph.problems else ()
    nameless = _nameless(memory, choice.graph)
    process = GlibcProcess(
        memory=memory,
        start=start,
        private=private,
        layouts=choice.layouts,
        graph=choice.graph,
        problems=list(dict.fromkeys((*of_lists, *choice.problems, *nameless))),
        program=main_program_path(memory, private.rtld),
        functions=FunctionNames(),
        build_ids=BuildIds(),
        agreement=choice.agreement,
    )
    if choice.layouts.version is None:
        process.add_problem("glibc", "its version cannot be read: the rules of the newest release are assumed")
    for contradiction in choice.contradictions:
        link_map = contradiction.link_map
        if link_map is not None and contradiction.in_headers:
            process.image(link_map)  # notes all that differs; the others are found by `Doubts`
    return process


def _nameless(memory: Memory, graph: Graph) -> Iterator[Problem]:
    """Yield a problem for each library with an unreadable name: nothing can find it by name."""
    for link_map in graph.by_address.values():
        is_named = link_map.name or is_vdso(memory, link_map)
        if link_map.l_name and not is_named and memory.try_read(link_map.l_name, 1) != b"\0":
            message = f"its name at {link_map.l_name:#x} cannot be read: it cannot be asked for by its name"
            yield Problem(f"link_map {link_map.address:#x}", message)


class GlibcProcess:
    """The facts of one snapshot of a process; independent of open counts.

    ``problems`` grow when more of the process is read; nothing else changes.  The trouble of a single library is kept
    apart from them: answers that concern that library report it.  The target's own problems are not among them either:
    `examine` adds them once everything is read.
    """

    def __init__(
        self,
        *,
        memory: Memory,
        start: Rendezvous,
        private: LoaderGlobals,
        layouts: LayoutSet,
        graph: Graph,
        problems: list[Problem],
        program: str,
        functions: FunctionNames,
        build_ids: BuildIds,
        agreement: Optional[HeaderAgreement] = None,
        bindings: Optional[BindingCache] = None,
    ) -> None:
        """Create a process from one snapshot.

        :param program: the path of the main program.
        :param agreement: what has compared some headers already, None if nothing has.
        :param bindings: those of an earlier snapshot, None for the first one.
        """
        self.memory = memory
        self.start = start
        self.private = private
        self.layouts = layouts
        self.graph = graph
        self.problems = problems
        self._troubles: dict[int, list[Problem]] = {}
        self._concerned: dict[int, None] = {}
        self._headless: dict[int, str] = {}
        self._overwritten: set[int] = set()
        self.program = program
        self._images = ElfImages(memory, self._agrees)
        if agreement is not None:
            self._agreement = agreement
        if bindings is None:
            self.bindings = BindingCache(memory, self._images)
        else:
            self.bindings = bindings.later(memory, self._images, graph.by_address)
        self.rules = CollectorRules.of(layouts.version)
        self.lock = read_load_lock(memory, layouts, private.rtld_global)
        self.namespaces: dict[int, Namespace] = {n.number: n for n in graph.namespaces}
        self._functions = functions
        self._build_ids = build_ids

    def later(self, read: Callable[[Memory], Graph]) -> GlibcProcess:
        """Read the same process again after it has run; its layouts are still valid.

        :param read: reads its libraries.
        :raises FaultError: if the loader's lists cannot be read.
        :raises CorruptError: if they are implausible.
        """
        memory = self.memory.renewed()
        graph = read(memory)
        return GlibcProcess(
            memory=memory,
            start=self.start,
            private=self.private,
            layouts=self.layouts,
            graph=graph,
            problems=list(graph.problems),
            program=self.program,
            functions=self._functions,
            build_ids=self._build_ids,
            bindings=self.bindings,
        )

    def loader_info(self) -> LoaderInfo:
        """Describe the loader."""
        version = self.layouts.version
        return LoaderInfo("glibc", ".".join(map(str, version)) if version else None, self.layouts.source)

    def add_problem(self, where: str, message: str) -> None:
        """Record a problem."""
        self.problems.append(Problem(where, message))

    def note(self, problem: Problem) -> None:
        """Record a problem once, however often it occurs."""
        if problem not in self.problems:
            self.problems.append(problem)

    def note_trouble(self, link_map: LinkMap, message: str) -> None:
        """Record a problem of one library once."""
        problem = Problem(self.name(link_map), message)
        known = self._troubles.setdefault(link_map.address, [])
        if problem not in known:
            known.append(problem)

    def has_trouble(self, link_map: LinkMap) -> bool:
        """Return True if a library has problems of its own."""
        return link_map.address in self._troubles

    def concern(self, link_map: LinkMap) -> None:
        """Record that an answer concerns a library, and look for its trouble."""
        self._concerned[link_map.address] = None
        if link_map.is_proxy or self.has_agreeing_headers(link_map) or self.image(link_map) is not None:
            return
        if link_map.address not in self._troubles:
            self._headless[link_map.address] = self.name(link_map)

    def concerned_problems(self) -> tuple[Problem, ...]:
        """Return the problems of the process, and those of the libraries that answers concern."""
        # In the order of the lists: which library an answer came by first is its own affair.
        ordered = [address for address in self.graph.by_address if address in self._concerned] if self._troubles else ()
        troubles = (problem for address in ordered for problem in self._troubles.get(address, ()))
        return tuple(dict.fromkeys((*self.problems, *troubles, *self._headless_problems())))

    def all_problems(self) -> tuple[Problem, ...]:
        """Return the problems of the process and of all its libraries, as far as they were looked at."""
        troubles = (problem for found in self._troubles.values() for problem in found)
        return (*self.problems, *troubles, *self._headless_problems())

    def has_unread_names(self) -> bool:
        """Return True if a library can have a name that cannot be read."""
        maps = self.graph.by_address.values()
        return any(_nameless(self.memory, self.graph)) or any(
            self.lacks_soname(each) for each in maps if not each.is_proxy
        )

    def lacks_soname(self, link_map: LinkMap) -> bool:
        """Return True if a library has a soname that cannot be read, or if that is not known."""
        image = self.image(link_map)
        try:
            return image is None or (DT_SONAME in image.dynamic and image.read_soname() is None)
        except DlwhyError:
            return True  # without a dynamic section nothing is known of a soname

    def _headless_problems(self) -> Iterator[Problem]:
        """Yield one problem for all libraries whose headers cannot be read: a core can lack those of hundreds."""
        names = [name for address, name in self._headless.items() if address not in self._troubles]
        if names:
            more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
            whose = "its ELF headers" if len(names) == 1 else "their ELF headers"
            message = f"{whose} cannot be read: soname, build-id, symbols and imports are not known"
            yield Problem(", ".join(names[:_MAX_NAMES]) + more, message)

    def name(self, link_map: LinkMap) -> str:
        """Return a library's base name, or a substitute if its path is unknown or it has none."""
        path = self.path(link_map)
        if path is not None:
            return base_name(path)
        if link_map.l_type == LT_EXECUTABLE:
            return "the main program"
        return self._vdso_name if is_vdso(self.memory, link_map) else f"link_map {link_map.address:#x}"

    def path(self, link_map: LinkMap) -> Optional[str]:
        """Return a library's path, None if it is unknown or the loader has none."""
        if link_map.name:
            return link_map.name
        return self.program or None if link_map.l_type == LT_EXECUTABLE else None

    @cached_property
    def _vdso_name(self) -> str:
        """Return the vDSO's name: older glibcs leave its l_name empty, newer ones let it point into the vDSO."""
        image = self._images.at(self.memory.target.auxv()[AT_SYSINFO_EHDR])
        return (image.read_soname() if image else None) or vdso_name(self.memory.platform.arch)

    def extent(self, link_map: LinkMap) -> tuple[Optional[int], Optional[int]]:
        """Return the addresses of a library's mappings, start and end, each None if unknown.

        In the link map that another namespace has for ld.so they are 0.
        """
        real = self.graph.by_address.get(link_map.l_real) if link_map.is_proxy else link_map
        return (None, None) if real is None or not real.l_map_end else real.extent

    def image(self, link_map: LinkMap) -> Optional[ElfImage]:
        """Return a library's image, None if it cannot be read, or is not the one that the loader has read."""
        return self._images.at(link_map.l_map_start)

    def _agrees(self, start: int, image: ElfImage) -> bool:
        """Return True if an image is the one that the loader has read; record a problem if it is not."""
        link_map = self.graph.find_map(start)
        texts = [] if link_map is None else list(header_contradictions(image, link_map))
        if texts and link_map is not None:
            self.note_trouble(link_map, overwritten_words(texts))
            self._overwritten.add(link_map.address)
        return not texts

    @cached_property
    def _agreement(self) -> HeaderAgreement:
        return HeaderAgreement(self.memory, self.graph.structure)

    def has_agreeing_headers(self, link_map: LinkMap) -> bool:
        """Return True if a library's headers are seen at once to be those that the loader has read."""
        return self._agreement.holds(link_map)

    def is_overwritten(self, link_map: LinkMap) -> bool:
        """Return True if a library's image was read, and is not the one that the loader has read."""
        return link_map.address in self._overwritten

    def build_id(self, link_map: LinkMap) -> Optional[str]:
        """Return a library's build-id in hex; also after the unload, if it was read before that."""
        return self._build_ids.of(link_map, self.graph, self._images)

    def forget_build_ids(self, gone: Iterable[LinkMap]) -> None:
        """Forget the build-ids of unloaded libraries."""
        self._build_ids.forget(gone, self.graph)

    def find_map(self, address: int) -> Optional[LinkMap]:
        """Find the library whose mappings contain an address."""
        return self.graph.find_map(address)

    def code_symbol(self, address: int) -> CodeSymbol:
        """Return the function that covers an address, and its library."""
        link_map = self.find_map(address)
        if link_map is None:
            return CodeSymbol(address, None, None)
        image, path = self.image(link_map), self.path(link_map) or ""
        function = self._functions.name(self.memory, image, link_map, path, address)
        return CodeSymbol(address, function, self.name(link_map))
