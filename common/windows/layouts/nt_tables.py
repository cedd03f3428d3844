"""Which layouts of NT's structures are known, and which of them could fit this kernel?

One file per architecture, ``common/data/layouts/nt-ARCH.json``, in the form of glibc's: variants of each structure, to
which every build refers by number.  Nothing here decides: every candidate is validated against the live target, because
an update can change a structure within a build (7601 did in 2018).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from ...layouts import read_table
from ...model import Field, Layout, Source, SourceKind


class NtBuild(NamedTuple):
    """A build of the kernel whose layouts are known.

    ``version`` is the file's own, such as ``6.1.7601.17514``; ``also`` are builds that run the same kernel with another
    number; ``guid`` is the PDB's, None if unknown; ``symbols`` are addresses relative to the image's base.
    """

    version: str
    variant: Mapping[str, int]
    guid: Optional[str]
    also: tuple[int, ...]
    symbols: Mapping[str, int]

    @property
    def number(self) -> int:
        """Return the build number, such as 7601."""
        return int(self.version.split(".")[2])


class NtTable(NamedTuple):
    """The builds of one architecture, oldest first."""

    arch: str
    builds: tuple[NtBuild, ...]
    structs: Mapping[str, Sequence[Mapping[str, Any]]]

    def layouts(self, build: NtBuild) -> dict[str, Layout]:
        """Return the layouts of all structures of a build."""
        return {
            name: Layout(name, entry["size"], {key: Field(*numbers) for key, numbers in entry["fields"].items()})
            for name, number in build.variant.items()
            for entry in (self.structs[name][number],)
        }


class NtCandidate(NamedTuple):
    """Layouts that could fit a kernel; ``symbols`` only if they are of the exact build."""

    layouts: Mapping[str, Layout]
    source: Source
    symbols: Mapping[str, int]


@functools.cache
def load_nt_table(arch: str) -> NtTable:
    """Load the layouts for an architecture, given by its GNU name.

    :raises LayoutError: if there is no table for it.
    """
    document = read_table("nt", arch)
    builds = tuple(
        NtBuild(
            entry["build"],
            entry["structs"],
            entry["pdb"]["guid"] if "pdb" in entry else None,
            tuple(entry.get("also", ())),
            entry.get("symbols", {}),
        )
        for entry in document["builds"]
    )
    return NtTable(document["arch"], builds, document["structs"])


def for_each_nt_candidate(table: NtTable, guid: Optional[str], number: Optional[int]) -> Iterator[NtCandidate]:
    """Yield layouts from the table: of the exact build, by its PDB's GUID, else all of the same build number."""
    for build in table.builds:
        if guid is not None and build.guid == guid:
            source = Source(SourceKind.TABLE, f"Windows {build.version}, by the GUID of its PDB")
            yield NtCandidate(table.layouts(build), source, build.symbols)
            return
    for build in table.builds:
        if number is not None and (build.number == number or number in build.also):
            source = Source(SourceKind.TABLE, f"Windows {build.version}, by build number {number}")
            yield NtCandidate(table.layouts(build), source, {})
