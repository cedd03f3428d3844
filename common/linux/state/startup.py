"""Why was a library loaded at program start?"""

from __future__ import annotations

from functools import cached_property
from typing import Optional

from ...errors import DlwhyError
from ...paths import base_name
from ..loader.maps import LinkMap
from ..loader.roots import LT_LOADED
from .naming import is_vdso
from .process import GlibcProcess


class Startup:
    """Why libraries were loaded at the start of a process."""

    def __init__(self, process: GlibcProcess) -> None:
        self._process = process

    def origin(self, link_map: LinkMap) -> Optional[str]:
        """Return what loaded a library: ``rtld``, ``vdso``, ``needed`` or ``preload``.

        None, and a problem, if nothing that could be read needs it, and not everything could be read.
        """
        process = self._process
        if link_map.address == process.private.rtld_map.address:
            return "rtld"
        if is_vdso(process.memory, link_map) is not False:
            return "vdso"
        image = process.image(link_map)
        names = {process.name(link_map), image.read_soname() if image else None}
        needed, unread = self._needed_at_start
        if names & needed:
            return "needed"
        if process.lacks_soname(link_map):
            unread = (process.name(link_map), *unread)
        if unread:
            more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
            message = f"what {unread[0]}{more} needs or is called cannot be read: it can be needed, or preloaded"
            process.note_trouble(link_map, message)
            return None
        return "preload"

    @cached_property
    def _needed_at_start(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """Collect the DT_NEEDED base names of all start-up libraries, and the libraries whose names cannot be read."""
        names: set[str] = set()
        unread: list[str] = []
        for link_map in self._process.graph.by_address.values():
            if link_map.l_type == LT_LOADED or link_map.is_proxy:
                continue
            if is_vdso(self._process.memory, link_map) is not False:
                continue
            image = self._process.image(link_map)
            try:
                needed = () if image is None else image.read_needed()
            except DlwhyError:
                image = None
            if image is None:
                unread.append(self._process.name(link_map))
            else:
                names.update(base_name(name) for name in needed)
        return frozenset(names), tuple(unread)
