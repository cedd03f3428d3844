"""Why does musl keep a library?  Because it keeps all: its dlclose unloads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from ...memory import Memory
from ...model import LoaderInfo, Problem
from ...paths import base_name
from ..auxv import AT_BASE, AT_SYSINFO_EHDR
from ..elf.image import ElfImages
from ..loader.musl import FIELDS, read_dso
from ..loader.rendezvous import PublicMap, Rendezvous
from ..model import Hold, HoldKind, Library, State
from .naming import main_program_path, target_info, vdso_name


def explain_musl(memory: Memory, start: Rendezvous) -> State:
    """Return a verdict on every library."""
    problems = [*start.problems]
    images = ElfImages(memory)
    libraries = []
    for index, entry in enumerate(start.maps):
        image = start.main if index == 0 else images.at(entry.l_addr)
        origin = _origin(memory, entry)
        path = (main_program_path(memory) if index == 0 else entry.l_name) or None
        name = base_name(path) if path else _substitute(memory, index, origin, entry)
        fields = None if origin == "vdso" else read_dso(memory, entry)
        if fields is None and origin != "vdso":
            problems.append(Problem(name, "its struct dso is laid out unlike musl 1.2's: fields not known"))
        first, last = image.load_range() if image else _range_of(fields)
        libraries.append(
            Library(
                name=name,
                path=path,
                soname=image.read_soname() if image else None,
                build_id=image.read_build_id() if image else None,
                load_bias=entry.l_addr,
                start=first,
                end=last,
                namespace=0,
                link_map=entry.address,
                fields={name: fields[name] for name in FIELDS} if fields else {},
                held=True,
                holds=(Hold(HoldKind.MAIN_PROGRAM) if index == 0 else _hold(origin, fields),),
            )
        )
    return State(target_info(memory), LoaderInfo("musl", None), tuple(libraries), problems=tuple(problems))


def _substitute(memory: Memory, index: int, origin: str, entry: PublicMap) -> str:
    """Return what a library without a path is called."""
    if index == 0:
        return "the main program"
    return vdso_name(memory.platform.arch) if origin == "vdso" else f"link_map {entry.address:#x}"


def _range_of(fields: Optional[Mapping[str, int]]) -> tuple[Optional[int], Optional[int]]:
    """Return the range of a library's mappings as its struct dso has it, None if it is unknown."""
    return (fields["map"], fields["map"] + fields["map_len"]) if fields and fields["map_len"] else (None, None)


def _origin(memory: Memory, entry: PublicMap) -> str:
    auxv = memory.target.auxv()
    if not entry.l_name or entry.l_addr == auxv.get(AT_SYSINFO_EHDR):
        return "vdso"
    return "rtld" if entry.l_addr == auxv.get(AT_BASE) else "needed"


def _hold(origin: str, fields: Optional[Mapping[str, int]]) -> Hold:
    if origin != "needed" or (fields is not None and not fields["runtime_loaded"]):
        return Hold(HoldKind.STARTUP, origin=origin)
    return Hold(HoldKind.NEVER_UNLOADS)
