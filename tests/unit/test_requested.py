"""Which library can an open return, by what the loader knows of its names and namespace?"""

from __future__ import annotations

from typing import Optional

import pytest
from dlwhy.common.linux.state.examine import examine
from dlwhy.common.linux.state.process import GlibcProcess
from dlwhy.common.linux.trace.request import OpenRequest
from dlwhy.common.linux.trace.requested import find_requested, is_requested
from dlwhy.tests.synth.glibc import Library
from dlwhy.tests.synth.glibc_layouts import V239, process_of

#: The offset of l_libname on x86-64, in all releases.
L_LIBNAME = 56


def asked(request: OpenRequest, *, is_damaged: bool = False) -> tuple[bool, list[str]]:
    """Say if an open can return liba.so, and which libraries it can return."""
    made = process_of([Library("liba.so", opencount=1), Library("libb.so", opencount=1)], (2, 40), V239)
    target = made.target()

    def of_glibc(process: GlibcProcess) -> tuple[bool, list[str]]:
        link_map = process.graph.by_address[made.map_of("liba.so")]
        found = find_requested(process, request, None)
        return is_requested(process, link_map, request, None), [process.name(each) for each in found]

    if is_damaged:
        place = made.map_of("liba.so") + L_LIBNAME
        target.overwrite(place, (0x6666_0000_0000).to_bytes(8, "little"))
    answer, _ = examine(target, of_glibc, lambda *_: (False, []))
    return answer


@pytest.mark.parametrize(
    ("name", "space", "expected"),
    [
        ("/usr/lib/liba.so", 0, (True, ["liba.so"])),
        ("elsewhere/liba.so", 0, (True, ["liba.so"])),
        ("libb.so", 0, (False, ["libb.so"])),
        ("liba.so", 1, (False, [])),
        ("liba.so", -2, (True, ["liba.so"])),
    ],
)
def test_names_and_namespaces(name: Optional[str], space: int, expected: tuple[bool, list[str]]) -> None:
    assert asked(OpenRequest(name, 1, space)) == expected


def test_names_that_cannot_be_read_leave_the_base_name() -> None:
    assert asked(OpenRequest("liba.so", 1, 0), is_damaged=True) == (True, ["liba.so"])
    assert asked(OpenRequest("libc.so", 1, 0), is_damaged=True)[0] is False
