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
from .naming import main_program_path, target_info


def explain_musl(memory: Memory, start: Rendezvous) -> State:
    """Return a verdict on every library."""
    problems = [*start.problems]
    images = ElfImages(memory)
    libraries = []
    for index, entry in enumerate(start.maps):
        image = start.main if index == 0 else images.at(entry.l_addr)
        origin = _origin(memory, entry)
        name = "linux-vdso.so.1" if origin == "vdso" else ""
        path = main_program_path(memory) if index == 0 else entry.l_name or name
        fields = None if origin == "vdso" else read_dso(memory, entry)
        if fields is None and origin != "vdso":
            problems.append(Problem(base_name(path), "its struct dso is laid out unlike musl 1.2's: fields not known"))
        first, last = image.load_range() if image else (0, 0)
        libraries.append(
            Library(
                name=base_name(path),
                path=path,
                soname=image.read_soname() if image else None,
                build_id=image.read_build_id() if image else None,
                base=entry.l_addr,
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


def _origin(memory: Memory, entry: PublicMap) -> str:
    auxv = memory.target.auxv()
    if not entry.l_name or entry.l_addr == auxv.get(AT_SYSINFO_EHDR):
        return "vdso"
    return "rtld" if entry.l_addr == auxv.get(AT_BASE) else "needed"


def _hold(origin: str, fields: Optional[Mapping[str, int]]) -> Hold:
    if origin != "needed" or (fields is not None and not fields["runtime_loaded"]):
        return Hold(HoldKind.STARTUP, origin=origin)
    return Hold(HoldKind.NEVER_UNLOADS)
