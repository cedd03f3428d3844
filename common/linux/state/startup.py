"""Why was a library loaded at program start?"""

from __future__ import annotations

from functools import cached_property

from ...errors import DlwhyError
from ...paths import base_name
from ..auxv import AT_SYSINFO_EHDR
from ..loader.maps import LinkMap
from ..loader.roots import LT_LOADED
from .process import GlibcProcess


class Startup:
    """Why libraries were loaded at the start of a process."""

    def __init__(self, process: GlibcProcess) -> None:
        self._process = process

    def origin(self, link_map: LinkMap) -> str:
        """Return what loaded a library: ``rtld``, ``vdso``, ``needed`` or ``preload``."""
        process = self._process
        if link_map.address == process.private.rtld_map.address:
            return "rtld"
        vdso = process.memory.target.auxv().get(AT_SYSINFO_EHDR)
        if link_map.name.startswith(("linux-vdso", "linux-gate")) or (vdso and link_map.l_map_start == vdso):
            return "vdso"
        image = process.image(link_map)
        names = {process.name(link_map), image.read_soname() if image else None}
        return "needed" if names & self._needed_at_start else "preload"

    @cached_property
    def _needed_at_start(self) -> frozenset[str]:
        """Collect the DT_NEEDED base names of all start-up libraries."""
        names: set[str] = set()
        for link_map in self._process.graph.by_address.values():
            image = self._process.image(link_map) if link_map.l_type != LT_LOADED else None
            if image is not None:
                try:
                    names.update(base_name(name) for name in image.read_needed())
                except DlwhyError:
                    continue
        return frozenset(names)
