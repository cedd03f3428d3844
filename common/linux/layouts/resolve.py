"""Which structure layouts could this glibc have, most trustworthy first?

No candidate is trusted: each is validated against the live target before it is used, because neither a version string
nor a single offset identifies a layout (stable branches and distributions insert members).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Optional

from ...model import Layout, Source, SourceKind
from .tables import Build, LayoutTable

#: The structures that make up the loader's state.
LOADER_STRUCTS = ("link_map", "link_namespaces", "rtld_global")
#: Structures that add evidence if they are known.
DETAIL_STRUCTS = ("rtld_global_ro", "unique_sym", "pthread")


class LayoutSet(NamedTuple):
    """Layouts by structure name, their source, and the glibc version that they belong to (None: unknown).

    ``exact`` means that they belong to the exact build, known by its build-id.
    """

    layouts: Mapping[str, Layout]
    source: Source
    version: Optional[tuple[int, int]]
    exact: bool

    def require(self, type_name: str) -> Layout:
        """Return the layout of one of LOADER_STRUCTS, which every set has."""
        return self.layouts[type_name]

    def find(self, type_name: str) -> Optional[Layout]:
        """Find the layout of a structure, None if this source lacks it."""
        return self.layouts.get(type_name)


class Fingerprint(NamedTuple):
    """Facts about the layouts that a stripped glibc reveals without debug information, each None if unreadable.

    ``tls_modid_offset`` is the offset in ``_thread_db_link_map_l_tls_modid``, the sizes are ``st_size`` of the symbols
    in ld.so's dynamic symbol table, in bytes; ``version`` is glibc's own.
    """

    ld_build_id: Optional[str]
    tls_modid_offset: Optional[int]
    rtld_global_size: Optional[int]
    rtld_global_ro_size: Optional[int]
    version: Optional[tuple[int, int]]


def for_each_candidate(table: LayoutTable, fingerprint: Fingerprint) -> Iterator[LayoutSet]:
    """Yield layouts from the table: of the exact build alone, else of builds that match the fingerprint, then the rest.

    The rest is offered as ``inferred``: with a distribution's backport, a release can have the layout of another.
    """
    for build in table.builds:
        if build.ld_build_id and build.ld_build_id == fingerprint.ld_build_id:
            source = Source(SourceKind.TABLE, f"{build.name}, by the build-id of ld.so")
            yield LayoutSet(_layouts(table, build), source, build.version, exact=True)
            return
    seen: set[tuple[int, ...]] = set()
    for build in sorted(table.builds, key=lambda build: -_score(build, fingerprint)):
        key = tuple(build.variant.get(name, -1) for name in LOADER_STRUCTS)
        if key in seen:
            continue
        seen.add(key)
        if _score(build, fingerprint) >= _FITS:
            source = Source(SourceKind.TABLE, f"{build.name}, by its fingerprint")
            version: Optional[tuple[int, int]] = fingerprint.version or build.version
        else:
            source = Source(SourceKind.INFERRED, f"{build.name}, by trying every known layout")
            version = fingerprint.version
        yield LayoutSet(_layouts(table, build), source, version, exact=False)


# The descriptor alone, or without it version and both sizes together: a stripped glibc before 2.34 (fef400a2f976)
# reveals no more.
_FITS = 80


def _score(build: Build, fingerprint: Fingerprint) -> int:
    anchors = build.anchors
    score = 0
    if fingerprint.tls_modid_offset is not None and anchors.get("link_map.l_tls_modid") == fingerprint.tls_modid_offset:
        score += 100
    if fingerprint.rtld_global_size is not None and anchors.get("_rtld_global") == fingerprint.rtld_global_size:
        score += 40
    if fingerprint.version == build.version:
        score += 30
    if fingerprint.rtld_global_ro_size is not None and (
        anchors.get("_rtld_global_ro") == fingerprint.rtld_global_ro_size
    ):
        score += 10
    return score


def _layouts(table: LayoutTable, build: Build) -> dict[str, Layout]:
    names = (*LOADER_STRUCTS, *DETAIL_STRUCTS)
    return {name: table.layout(build, name) for name in names if name in build.variant}
