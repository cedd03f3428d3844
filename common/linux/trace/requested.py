"""Which loaded library did an open request?

glibc records the names by which a library has been found in l_libname (elf/dl-load.c: ``_dl_new_object``,
``add_name_to_object``), so after an open its name is there, or it is l_name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from ...errors import DlwhyError
from ...paths import base_name
from ...trace.events import Site
from ..loader.maps import LinkMap
from ..loader.roots import LT_EXECUTABLE
from ..state.naming import for_each_library_name
from ..state.process import GlibcProcess
from .entry_points import CALLERS_NAMESPACE
from .request import OpenRequest


def find_requested(process: GlibcProcess, request: OpenRequest, caller: Optional[Site]) -> Sequence[LinkMap]:
    """Find the libraries of which an open with this request returns one, or fails; none if it fails."""
    space = _find_space(process, request, caller)
    maps = [m for m in process.graph.by_address.values() if not m.is_proxy and space in (None, m.l_ns)]
    for matches in (is_named, has_base_name):
        found = [link_map for link_map in maps if matches(process, link_map, request)]
        if found:
            return found
    return ()


def is_requested(process: GlibcProcess, link_map: LinkMap, request: OpenRequest, caller: Optional[Site]) -> bool:
    """Return True if an open with this request can return a library, by its names and namespace."""
    if _find_space(process, request, caller) not in (None, link_map.l_ns):
        return False
    is_known = request.name is not None
    return not is_known or has_base_name(process, link_map, request) or is_named(process, link_map, request)


def _find_space(process: GlibcProcess, request: OpenRequest, caller: Optional[Site]) -> Optional[int]:
    """Find the namespace in which an open with this request looks, None if that is not known."""
    if request.space == CALLERS_NAMESPACE and caller is not None and caller.through is None:
        # Code that is in no library is taken for the program's (elf/dl-open.c: dl_open_worker_begin).
        own = process.find_map(caller.address)
        return own.l_ns if own is not None else 0
    return request.space if request.space >= 0 else None


def is_named(process: GlibcProcess, link_map: LinkMap, request: OpenRequest) -> bool:
    """Return True if glibc knows a library by just the name that is requested."""
    if not request.name:
        return request.name is not None and link_map.l_type == LT_EXECUTABLE
    try:
        return request.name == link_map.name or request.name in for_each_library_name(process.memory, link_map)
    except DlwhyError:
        return False  # then its base name decides, and if that is not enough, the library is said to be unknown


def has_base_name(_: GlibcProcess, link_map: LinkMap, request: OpenRequest) -> bool:
    """Return True if a library has the base name of the one that is requested."""
    return bool(request.name) and base_name(request.name or "") == base_name(link_map.name)
