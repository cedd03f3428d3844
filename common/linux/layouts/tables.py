"""Which layouts of glibc and musl are known?

One file per architecture, ``common/data/layouts/glibc-ARCH.json``, is written by tests/generate/glibc.py.  The loader's
structures change independently of each other, and distributions patch them one at a time, so a file has the variants
of each structure, and each build refers to its variants by number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Optional

from ...errors import LayoutError
from ...layouts import read_table
from ...model import Field, Layout


class Build(NamedTuple):
    """A build of glibc whose layouts are known.

    ``release`` is ``package``, ``tag``, ``branch-tip`` or ``development``; the package, its distribution and
    the build-ids are None for all but the first.  ``anchors`` are the numbers that can be read without debug
    information: the offset ``link_map.l_tls_modid`` (libthread_db's descriptor) and the sizes of the symbols
    ``_rtld_global`` and ``_rtld_global_ro``.  ``variant`` has a key for each known structure.
    """

    version: tuple[int, int]
    release: str
    anchors: Mapping[str, int]
    variant: Mapping[str, int]
    package: Optional[str] = None
    distribution: Optional[str] = None
    ld_build_id: Optional[str] = None
    libc_build_id: Optional[str] = None

    @property
    def name(self) -> str:
        """Return the build's display name."""
        version = "glibc {}.{}".format(*self.version)
        if self.package is None or self.distribution is None:
            return f"{version} ({self.release.replace('-', ' ')})"
        return f"{version} ({self.distribution[:1].upper()}{self.distribution[1:]} {self.package})"


class LayoutTable(NamedTuple):
    """The builds of one architecture, oldest version first."""

    arch: str
    byteorder: str
    pointer_size: int
    builds: tuple[Build, ...]
    structs: Mapping[str, Sequence[Mapping[str, Any]]]

    def layout(self, build: Build, type_name: str) -> Layout:
        """Return the layout of a structure in a build.

        :raises LayoutError: if the structure is not known for this build.
        """
        variant = build.variant.get(type_name)
        if variant is None:
            raise LayoutError(
                f"no layout of struct {type_name} for {build.name} on {self.arch}",
                tried=sorted(build.variant),
            )
        entry = self.structs[type_name][variant]
        return Layout(
            type_name,
            entry["size"],
            {name: Field(*numbers) for name, numbers in entry["fields"].items()},
        )


@cache
def load_table(arch: str) -> LayoutTable:
    """Load the layouts for an architecture, given by its GNU name such as ``x86_64``.

    :raises LayoutError: if there is no table for it.
    """
    document = read_table("glibc", arch)
    return LayoutTable(
        arch=document["arch"],
        byteorder=document["byteorder"],
        pointer_size=document["pointer_size"],
        builds=tuple(_build(entry) for entry in document["builds"]),
        structs=document["structs"],
    )


def load_musl_dso(arch: str) -> Layout:
    """Load the layout of musl's ``struct dso`` for an architecture.

    :raises LayoutError: if it is not known.
    """
    document = read_table("musl", arch)
    fields = {name: Field(*numbers) for name, numbers in document["fields"].items()}
    return Layout(document["type"], document["size"], fields)


def _build(entry: Mapping[str, Any]) -> Build:
    major, minor = entry["version"].split(".")
    return Build(
        version=(int(major), int(minor)),
        release=entry["release"],
        anchors=entry["anchors"],
        variant=entry["structs"],
        package=entry.get("package"),
        distribution=entry.get("distribution"),
        ld_build_id=entry.get("ld_build_id"),
        libc_build_id=entry.get("libc_build_id"),
    )
