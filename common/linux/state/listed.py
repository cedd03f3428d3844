"""What can be said of the libraries in a dump that holds no state of the dynamic loader?

Minidumps of Linux are so: a list of modules, stacks, and no link maps.  Which libraries there were is known then, what
keeps each of them is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...errors import UnsupportedError
from ...memory import Memory
from ...model import LoaderInfo, Problem
from ...paths import base_name
from ..dumps.minidump import LinuxMinidump, ListedMap, ListedModule
from ..model import Library, State
from .naming import target_info

_NO_STATE = "this kind of dump holds no state of the dynamic loader"
_REMEDY = "a core has it (gdb's generate-core-file, or the kernel's)"


def refusal_of(target: LinuxMinidump) -> UnsupportedError:
    """Return the refusal of a question that the state of the loader alone answers."""
    return UnsupportedError(f"{target.path}: {_NO_STATE}: {_REMEDY}")


def explain_listed(target: LinuxMinidump) -> State:
    """Return the libraries that a dump lists, with no verdict on them."""
    problems = [Problem("loader", f"{_NO_STATE}: what keeps a library is not known; {_REMEDY}")]
    if not target.listed_modules() and not target.listed_maps():
        problems.append(Problem("libraries", "the dump lists none: which there were is not known"))
    return State(
        target=target_info(Memory(target)),
        loader=LoaderInfo(None, None),
        libraries=tuple(_libraries(target.listed_modules(), target.listed_maps() or ())),
        problems=(*problems, *target.problems()),
    )


def _libraries(modules: Sequence[ListedModule], maps: Sequence[ListedMap]) -> Iterator[Library]:
    left = [each for each in maps if each.name]
    for module in modules:
        mine = next((each for each in maps if module.base <= each.l_ld < module.base + module.size), None)
        if mine in left:
            left.remove(mine)
        yield Library(
            name=base_name(module.path),
            path=module.path if "/" in module.path else None,  # Crashpad has the soname of some
            soname=None,
            build_id=module.build_id,
            load_bias=mine.l_addr if mine else None,
            start=module.base,
            end=module.base + module.size,
            namespace=0,
            link_map=0,
            fields={},
            held=None,
        )
    for each in left:
        yield Library(base_name(each.name), each.name, None, None, each.l_addr, None, None, 0, 0, {}, None)
