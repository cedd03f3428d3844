"""Which layouts can the structures of Windows' loader have, most trustworthy first?

``common/data/layouts/ntuser-ARCH.json`` has the layouts of some builds; builds between them resemble their neighbours.
So nothing here decides: `loader.lists` validates every candidate against the target.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ...errors import LayoutError
from ...layouts import read_table
from ...model import Field, Layout, Source, SourceKind

#: The structures that make up the loader's state; _LDR_DDAG_NODE is absent before Windows 8.
LOADER_TYPES = ("_PEB", "_PEB_LDR_DATA", "_LDR_DATA_TABLE_ENTRY", "_LDR_DDAG_NODE")
#: The first build that keeps the loader's graph: Windows 8.
FIRST_GRAPH_BUILD = 9200


class NtLayouts(NamedTuple):
    """Layouts by NT's own type names, and where they came from."""

    layouts: Mapping[str, Layout]
    source: Source

    def require(self, type_name: str) -> Layout:
        """Return the layout of a structure.

        :raises LayoutError: if this source lacks it.
        """
        found = self.layouts.get(type_name)
        if found is None:
            raise LayoutError(f"no layout of {type_name} in {self.source.detail}")
        return found

    @property
    def has_graph(self) -> bool:
        """Return True if entries point at nodes of the loader's graph, as since Windows 8."""
        return "DdagNode" in self.require("_LDR_DATA_TABLE_ENTRY").fields


@functools.cache
def _load(arch: str) -> Any:
    return read_table("ntuser", arch)


def for_each_candidate(arch: str, build: int) -> Iterator[NtLayouts]:
    """Yield the layouts known for an architecture, best matches for build number ``build`` first.

    Builds with the same kind of loader come first, among these older before newer ones, then by distance.

    :raises LayoutError: if there are none for the architecture.
    """
    # The structures of ARM64 are those of x64, which it also emulates.
    document = _load("x86_64" if arch == "aarch64" else arch)
    seen: set[tuple[int, ...]] = set()
    entries = sorted(document["builds"], key=lambda entry: _distance(entry, build))
    for entry in entries:
        variants = entry["structs"]
        key = tuple(variants.get(name, -1) for name in LOADER_TYPES)
        if key in seen:
            continue
        seen.add(key)
        layouts = {name: _layout(document, name, variant) for name, variant in variants.items()}
        yield NtLayouts(layouts, _source(entry["version"], build))


def _number(version: str) -> int:
    return int(version.split(".")[2])


def _distance(entry: Any, build: int) -> tuple[bool, bool, int]:
    number = _number(entry["version"])
    other_era = ("_LDR_DDAG_NODE" in entry["structs"]) != (build >= FIRST_GRAPH_BUILD)
    return other_era, number > build, abs(number - build)


def _source(version: str, build: int) -> Source:
    number = _number(version)
    if number == build:
        return Source(SourceKind.TABLE, f"Windows {version}")
    if build and (number >= FIRST_GRAPH_BUILD) == (build >= FIRST_GRAPH_BUILD):
        return Source(SourceKind.TABLE, f"Windows {version}, the nearest to build {build} that is known")
    return Source(SourceKind.INFERRED, f"Windows {version}, by trying every known layout")


def _layout(document: Any, name: str, variant: int) -> Layout:
    entry = document["structs"][name][variant]
    return Layout(name, entry["size"], {member: Field(*numbers) for member, numbers in entry["fields"].items()})
