"""Which library does another need by its file, though the loader's list of what it needs lacks it?

The collector follows l_initfini, which is made from DT_NEEDED when a library is opened (elf/dl-deps.c).  A name there
leads to a library that has it as one of its names: that of its file, its soname, or another one in l_libname, such as
that of a symbolic link (elf/dl-load.c: ``_dl_map_object``).  Names are never taken away, so a library that has the name
now and is not listed contradicts the list, unless what is listed has it, too.  Filters (DT_FILTER, DT_AUXILIARY) are
listed with what is needed, and looked for by nobody.  Auditing libraries can lead any name elsewhere (la_objsearch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Optional

from ...errors import DlwhyError
from ...paths import base_name
from ..loader.maps import LinkMap
from ..loader.roots import LT_LOADED
from .naming import MAX_LIBRARY_NAMES, for_each_library_name
from .process import GlibcProcess


class UnlistedUsers:
    """The libraries that need others by their files, and do not list them."""

    def __init__(self, process: GlibcProcess) -> None:
        self._process = process

    def of(self, link_map: LinkMap) -> Sequence[LinkMap]:
        """Return the libraries that need an opened one by its name, and whose l_initfini lacks it."""
        return self._users.get(link_map.address, ())

    @cached_property
    def _users(self) -> Mapping[int, Sequence[LinkMap]]:
        graph = self._process.graph
        opened = [m for m in graph.by_address.values() if m.l_type == LT_LOADED and not m.is_proxy]
        if any(m.l_auditing for m in opened):
            return {}
        by_name: dict[tuple[int, str], list[LinkMap]] = {}
        for each in opened:
            by_name.setdefault((each.l_ns, base_name(each.name)), []).append(each)
        users: dict[int, list[LinkMap]] = {}
        for user in opened:
            if not user.l_relocated or not user.listed or user.address in graph.unread_edges:
                continue
            for name in self._needed_names(user):
                found = by_name.get((user.l_ns, name), ())
                if any(each.address in user.listed for each in found) or (found and self._is_listed(user, name)):
                    continue
                for each in found:
                    users.setdefault(each.address, []).append(user)
        return users

    def _needed_names(self, link_map: LinkMap) -> Sequence[str]:
        """Read the base names in DT_NEEDED; none if they cannot be read, which contradicts nothing."""
        image = self._process.image(link_map)
        try:
            return () if image is None else [base_name(name) for name in image.read_needed()]
        except DlwhyError:
            return ()  # the verdict rests on l_initfini, at which this is a second look

    def _is_listed(self, user: LinkMap, name: str) -> bool:
        """Return True unless it is known that nothing that a library lists has a name."""
        return any(self._can_have(self._process.graph.by_address.get(address), name) for address in user.listed)

    def _can_have(self, link_map: Optional[LinkMap], name: str) -> bool:
        """Return True unless it is known that a library does not have a name."""
        if link_map is None:
            return True
        image = self._process.image(link_map)
        if self._process.lacks_soname(link_map) or (image is not None and image.read_soname() == name):
            return True
        try:
            names = list(for_each_library_name(self._process.memory, link_map))
        except DlwhyError:
            return True  # a name that is not known makes no doubt
        return not 0 < len(names) < MAX_LIBRARY_NAMES or name in map(base_name, names)
