"""Which of the candidate layouts fits this process?

Each candidate is compared with the live lists and with each library's ELF header.  The header checks decide: only they
distinguish the 2.36 release from Debian's 2.36, whose members are 8 bytes further on.

A file that is overwritten in place changes the headers in memory, but not what the loader has noted of them.  So a
library that contradicts a layout on which the others agree is that library's trouble, and not the layout's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from ...errors import CorruptError, FaultError, LayoutError
from ...memory import Memory
from ...model import Layout, Module, Problem, Source, SourceKind
from ..elf.image import PT_GNU_RELRO, PT_TLS, ElfImage, ElfImages
from ..layouts.resolve import DETAIL_STRUCTS, LOADER_STRUCTS, LayoutSet, for_each_candidate
from ..layouts.tables import load_table
from .agreement import MAX_TLS_MODULES, HeaderAgreement
from .find import LoaderGlobals, is_libc
from .maps import Graph, LinkMap, read_graph
from .rendezvous import Rendezvous
from .roots import LT_EXECUTABLE, LT_LOADED

# A larger value means that the offset is wrong.
_MAX_COUNT = 1 << 20

_SHOWN_CONTRADICTIONS = 2

# A wrong layout is wrong throughout, so the first libraries' ELF headers show it.
_SAMPLE = 16
# If not all lists can be read, or a library contradicts, at least this many ELF headers must agree with a layout.
_ENOUGH_IMAGES = 2


class LayoutChoice(NamedTuple):
    """The layouts that fit the process, the libraries read with them, the images that were read, and how they compare.

    ``problems`` are those of the layouts, ``contradictions`` those of single libraries.
    """

    layouts: LayoutSet
    graph: Graph
    images: ElfImages
    agreement: Optional[HeaderAgreement]
    problems: tuple[Problem, ...]
    contradictions: tuple[Contradiction, ...] = ()


class Contradiction(NamedTuple):
    """What contradicts a layout: of one library, or of the lists as a whole (``link_map`` is None).

    ``in_headers`` is True if it is the library's ELF headers in memory that contradict.
    """

    text: str
    link_map: Optional[LinkMap] = None
    in_headers: bool = False

    def __str__(self) -> str:
        """Return the text, with the library's name if it is of one."""
        if self.link_map is None:
            return self.text
        return f"{self.link_map.name or f'link_map {self.link_map.address:#x}'}: {self.text}"


def choose_layouts(memory: Memory, start: Rendezvous, private: LoaderGlobals) -> LayoutChoice:
    """Find the layouts that the target validates, and read the libraries with them.

    :raises LayoutError: if none validates.
    """
    tried: list[str] = []
    second_best: list[LayoutChoice] = []
    debug_info = find_debug_layouts(memory, private)
    images = ElfImages(memory)
    for candidate in _candidates(memory, private, debug_info):
        try:
            graph = read_graph(memory, candidate, private.rtld_global)
        except (FaultError, CorruptError, LayoutError) as error:
            tried.append(f"{candidate.source.detail}: {error}")
            continue
        agreement = HeaderAgreement(memory, graph.structure) if graph.by_address else None
        contradictions = list(_for_each_contradiction(start, graph, images, agreement, exact=candidate.exact))
        problems = tuple(_disagreements(memory, private, candidate))
        chosen = LayoutChoice(candidate, graph, images, agreement, problems, tuple(contradictions))
        unread = [f"{p.where}: {p.message}" for p in graph.problems if p not in start.problems]
        # Unreadable lists count against a layout too, unless it is the exact build's, so that only data are missing.
        if not contradictions and (candidate.exact or not unread):
            return chosen
        is_read = candidate.exact or not unread
        if is_read and _is_agreed(chosen) if contradictions else _is_well_founded(candidate, graph, images):
            second_best.append(chosen)
        texts = [*map(str, contradictions), *unread]
        more = len(texts) - _SHOWN_CONTRADICTIONS
        shown = ", ".join(texts[:_SHOWN_CONTRADICTIONS])
        tried.append(f"{candidate.source.detail}: {shown}" + (f" and {more} more" if more > 0 else ""))
    if second_best:
        return min(second_best, key=lambda choice: len({each.link_map for each in choice.contradictions}))
    raise LayoutError(
        "no known layout of glibc's loader fits this process; install libc6-dbg for its very build", tried
    )


def _candidates(memory: Memory, private: LoaderGlobals, debug_info: Optional[LayoutSet]) -> Iterator[LayoutSet]:
    if debug_info is not None:
        yield debug_info
    yield from for_each_candidate(load_table(memory.platform.arch), private.fingerprint)


def find_debug_layouts(memory: Memory, private: LoaderGlobals) -> Optional[LayoutSet]:
    """Return the layouts in the debugger's debug information, None if it lacks a required one.

    The debugger answers only for a file whose build-id is the one in memory.
    """
    build_id = private.fingerprint.ld_build_id
    if build_id is None:
        return None
    target = memory.target
    rtld = Module(private.rtld_map.l_name, private.rtld_map.l_addr, build_id)
    layouts: dict[str, Layout] = {}
    for name in LOADER_STRUCTS:
        layout = target.find_layout(name, rtld)
        if layout is None:
            return None
        layouts[name] = layout
    for name in DETAIL_STRUCTS:
        layout = target.find_layout(name, rtld)
        if layout is not None:
            layouts[name] = layout
    source = Source(SourceKind.DEBUG_INFO, f"ld.so, build-id {build_id}")
    return LayoutSet(layouts, source, private.fingerprint.version, exact=True)


def _disagreements(memory: Memory, private: LoaderGlobals, used: LayoutSet) -> Iterator[Problem]:
    """Compare debug information with the table's entry for the same build-id."""
    if used.source.kind is not SourceKind.DEBUG_INFO:
        return
    try:
        table = load_table(memory.platform.arch)
    except LayoutError:
        return  # no table for this architecture, so nothing to compare with
    other = next(iter(for_each_candidate(table, private.fingerprint)), None)
    if other is None or not other.exact:
        return
    for name, member in other.require("link_map").fields.items():
        seen = used.require("link_map").fields.get(name)
        if seen is not None and seen != member:
            message = f"{name} is at {seen.offset} by {used.source.detail}, at {member.offset} by {other.source.detail}"
            yield Problem("struct link_map", message)


def _is_well_founded(candidate: LayoutSet, graph: Graph, images: ElfImages) -> bool:
    """Return True if a layout fits by the loader's fingerprint and was compared with enough ELF headers."""
    maps = [each for each in graph.namespaces[0].maps[:_SAMPLE] if not _is_vdso(each)]
    compared = sum(images.at(each.field("l_map_start") or 0) is not None for each in maps)
    return candidate.source.kind is SourceKind.TABLE and compared >= _ENOUGH_IMAGES


def _is_agreed(choice: LayoutChoice) -> bool:
    """Return True if a layout that some libraries contradict is right by all others.

    That of the exact build needs few witnesses.  Of any other the contradictions must be those of headers, in the
    smaller part of the libraries, but for one damaged link map, and the C library must agree; it has thread-local
    storage, whose members most others leave 0.
    """
    if any(each.link_map is None for each in choice.contradictions):
        return False
    doubted = {each.link_map.address for each in choice.contradictions if each.link_map is not None}
    images = choice.images
    maps = [each for each in choice.graph.namespaces[0].maps[:_SAMPLE] if not _is_vdso(each) and not each.is_proxy]
    compared = [each for each in maps if images.at(each.field("l_map_start") or 0) is not None]
    agreeing = [each for each in compared if each.address not in doubted]
    if len(agreeing) < _ENOUGH_IMAGES:
        return False
    if choice.layouts.exact:
        return True
    return (
        len({each.link_map for each in choice.contradictions if not each.in_headers}) <= 1
        and 2 * len(agreeing) > len(compared)
        and any(is_libc(each.name) for each in agreeing)
    )


def _for_each_contradiction(
    start: Rendezvous, graph: Graph, images: ElfImages, agreement: Optional[HeaderAgreement], *, exact: bool
) -> Iterator[Contradiction]:
    """Yield what contradicts the layouts; an exact build is checked against the first libraries only."""
    if not graph.namespaces or graph.namespaces[0].number != 0:
        yield Contradiction("the base namespace is empty")
        return
    base = graph.namespaces[0]
    first = base.maps[0] if base.maps else None
    public = next(iter(start.list), None)
    if first is None or public is None or first.address != public.address:
        yield Contradiction("_dl_ns[0]._ns_loaded is not the first library of r_debug")
        return
    if first.l_type != LT_EXECUTABLE:
        yield Contradiction(f"the main program's l_type is {first.l_type}", first)
    for namespace in graph.namespaces:
        for index, link_map in enumerate(namespace.maps[:_SAMPLE] if exact else namespace.maps):
            if link_map.l_type == LT_EXECUTABLE and link_map is not first:
                yield Contradiction("l_type is that of the main program", link_map)
            if link_map.l_ns != namespace.number:
                yield Contradiction(f"l_ns is {link_map.l_ns}", link_map)
            for doubt in graph.doubts.get(link_map.address, ()):
                yield Contradiction(doubt.text, link_map)
            yield from _map_contradictions(graph, link_map)
            if index >= _SAMPLE and not _is_telling(link_map):
                continue
            if agreement is None or not agreement.holds(link_map):
                for text in header_contradictions(images.at(link_map.l_map_start), link_map):
                    yield Contradiction(text, link_map, in_headers=True)


def _is_telling(link_map: LinkMap) -> bool:
    """Return True for libraries with thread-local storage, such as libc: other ELF headers reveal nothing."""
    return bool(link_map.field("l_tls_modid")) or link_map.name.endswith("/libc.so.6")


def _is_vdso(link_map: LinkMap) -> bool:
    """Return True for the vDSO: other code of the loader sets it up, and leaves some members 0."""
    return link_map.name.startswith("linux-")


def _map_contradictions(graph: Graph, link_map: LinkMap) -> Iterator[Contradiction]:
    for text in _implausible_members(graph, link_map):
        yield Contradiction(text, link_map)


def _implausible_members(graph: Graph, link_map: LinkMap) -> Iterator[str]:
    if link_map.l_type > LT_LOADED:
        yield f"l_type is {link_map.l_type}"
    if link_map.is_proxy:
        if link_map.l_real not in graph.by_address:
            yield "l_real is no library"
        return
    if link_map.l_direct_opencount > _MAX_COUNT:
        yield f"l_direct_opencount is {link_map.l_direct_opencount}"
    if (link_map.l_tls_dtor_count or 0) > _MAX_COUNT:
        yield f"l_tls_dtor_count is {link_map.l_tls_dtor_count}"
    for flag in ("l_nodelete_active", "l_nodelete_pending"):
        if (link_map.field(flag) or 0) > 1:
            yield f"{flag} is {link_map.field(flag)}"
    loader = link_map.field("l_loader")
    if loader and loader not in graph.by_address:
        yield "l_loader is no library"
    if not _has_plausible_range(link_map):
        yield "l_ld is not between l_map_start and l_map_end"


def _has_plausible_range(link_map: LinkMap) -> bool:
    return link_map.l_map_start <= link_map.l_ld < link_map.l_map_end


def header_contradictions(image: Optional[ElfImage], link_map: LinkMap) -> Iterator[str]:
    """Yield where a library's ELF headers in memory differ from what the loader has noted of them.

    :param image: the library's image, None if it cannot be read: then there is nothing to compare.
    """
    if image is None or link_map.is_proxy or _is_vdso(link_map) or not _has_plausible_range(link_map):
        return
    phnum = link_map.field("l_phnum")
    if phnum is not None and phnum != len(image.headers):
        yield f"l_phnum is {phnum}, the ELF header says {len(image.headers)}"
    tls = image.find_header(PT_TLS)
    expected = {
        "l_tls_blocksize": tls.memsz if tls else 0,
        "l_tls_align": tls.align if tls else 0,
    }
    relro = image.find_header(PT_GNU_RELRO)
    if relro:
        expected["l_relro_addr"] = relro.vaddr
        expected["l_relro_size"] = relro.memsz
    for name, value in expected.items():
        seen = link_map.field(name)
        if seen is not None and seen != value:
            yield f"{name} is {seen:#x}, the program headers say {value:#x}"
    modid = link_map.field("l_tls_modid") or 0
    if modid > MAX_TLS_MODULES or (modid != 0) != (tls is not None and tls.memsz != 0):
        yield f"l_tls_modid is {modid}"
    entry = link_map.field("l_entry")
    if link_map.l_type != LT_EXECUTABLE and entry and image.entry:
        seen_entry = (entry - link_map.l_addr) & image.memory.platform.address_mask
        if seen_entry != image.entry and image.bias == link_map.l_addr:
            yield "l_entry is not the ELF header's entry point"


def overwritten_words(texts: Sequence[str]) -> str:
    """Return what it means that a library's ELF headers are not those that the loader has read.

    :param texts: where they differ, at least one.
    """
    shown = ", ".join(texts[:_SHOWN_CONTRADICTIONS])
    # All numbers that the loader noted stay as they were; one alone can be a damaged link map.
    why = "the file was overwritten while it was loaded"
    if len(texts) == 1:
        why += ", or its link map is damaged"
    return (
        f"{why}; replace files by rename. Its headers in memory are not those that the loader has read ({shown}): "
        "its soname, build-id, symbols and imports are not known"
    )
