"""Which libraries became NODELETE since the previous event, why, and through whose lookups?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from ..loader.maps import Graph, LinkMap, is_same_library
from ..loader.roots import LT_LOADED
from ..model import Hold, HoldKind, Library
from ..state.process import GlibcProcess
from .call import OpenCall
from .in_flight import changed_maps

_RTLD_NODELETE = 0x1000


class NodeleteCause(NamedTuple):
    """Why a library became NODELETE: the origin, the symbols, and the libraries that looked them up, None if unknown.

    ``symbols_omitted`` more symbols are left out.
    """

    origin: Optional[str]
    symbols: Optional[tuple[str, ...]]
    lookups: Optional[tuple[str, ...]]
    symbols_omitted: int


def find_new_nodelete(before: Graph, graph: Graph) -> Iterator[LinkMap]:
    """Find the libraries that have become NODELETE."""
    for link_map in changed_maps(graph, before):
        other = before.by_address.get(link_map.address)
        if not link_map.nodelete or link_map.is_proxy or link_map.l_type != LT_LOADED:
            continue
        if other is None or not is_same_library(other, link_map) or not other.nodelete:
            yield link_map


def find_nodelete_cause(
    process: GlibcProcess, link_map: LinkMap, library: Library, open_calls: Sequence[OpenCall]
) -> NodeleteCause:
    """Find what made a library NODELETE.

    :param library: the verdict on it.
    :param open_calls: the opens that may have caused it.
    """
    hold = next((h for h in library.holds if h.kind is HoldKind.NODELETE), Hold(HoldKind.NODELETE))
    origin = hold.origin
    flagged = [open_call for open_call in open_calls if open_call.request.flags & _RTLD_NODELETE]
    if any(each.library and each.library.link_map == link_map.address for each in flagged) and origin != "elf-flag":
        origin = "dlopen-flag"
    elif origin == "dlopen-flag-or-dlsym" and not flagged:
        origin = "bound-by-startup"  # by a lookup with dlsym, which leaves no trace
    if origin in ("elf-flag", "dlopen-flag"):
        return NodeleteCause(origin, (), (), 0)
    lookups: Sequence[str] = ()
    if open_calls and origin in ("unique-symbol", "bound-by-startup"):
        lookups = _find_lookups(process, link_map, open_calls[-1], origin)
    # A lookup with dlsym leaves no trace, and neither does one before the open.
    return NodeleteCause(origin, hold.symbols or None, tuple(lookups) or None, hold.symbols_omitted)


def _find_lookups(process: GlibcProcess, link_map: LinkMap, during: OpenCall, origin: str) -> list[str]:
    """Return the names of the libraries whose lookups made a library NODELETE."""
    found = []
    for other in process.graph.by_address.values():
        candidate = other.address in during.added if origin == "unique-symbol" else other.l_type != LT_LOADED
        if candidate and not other.is_proxy and process.bindings.symbols_into(other, link_map):
            found.append(process.name(other))
    return sorted(found)
