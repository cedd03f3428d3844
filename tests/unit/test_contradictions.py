"""Is nothing concluded from a link map that something contradicts, and is it said what does?

One member at a time is damaged, as a write of the program to the wrong place would do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common.linux.model import HoldKind, State
from dlwhy.common.linux.plan import plan_close
from dlwhy.common.linux.state.examine import explain
from dlwhy.common.model import Outcome
from dlwhy.tests.fakes import snapshot
from dlwhy.tests.synth.glibc import DATA, DYNAMIC, IMAGE_SIZE, Library, Process
from dlwhy.tests.synth.glibc_layouts import V240_LIVE, process_of

#: The members behind l_direct_opencount, as 2.40 has them: bit-fields, then l_nodelete_active and l_nodelete_pending.
KINDS, USED, AUDITING, ACTIVE, PENDING = (V240_LIVE.opencount + place for place in (4, 5, 6, 7, 8))
L_ADDR, L_LD, L_REAL, L_NS = 0, 16, 40, 48
#: l_type of an opened library, l_relocated, l_init_called; and those of one of the start, and of the program.
OPENED, STARTED, PROGRAM = 0b11010, 0b11001, 0b11000
R_LIST = V240_LIVE.loader - 32
#: Where liba.so lies.
BASE = 0x7F00_0030_0000

Change = tuple[int, bytes]


def process(*more: Library) -> Process:
    """Return a process with a library that is open, one that it needs, and a namespace of its own."""
    proxy = Library("ld.so", namespace=1, is_proxy=True)
    there = Library("libthere.so", namespace=1, opencount=1, needs=["ld.so"], init_called=True)
    opened = Library("liba.so", opencount=1, needs=["libb.so"], init_called=True)
    return process_of([opened, Library("libb.so", init_called=True), proxy, there, *more], layout=V240_LIVE)


def explain_damaged(made: Process, name: str, *changes: Change, namespace: int = 0, unread: int = 0) -> State:
    """Explain a process with other bytes in a library's link map, and so many of its image that are not readable."""
    target = made.target()
    for place, content in changes:
        target.overwrite(made.map_of(name, namespace) + place, content)
    if unread:
        target.forget(made.bases[name], unread)
    return explain(target)


def word(value: int) -> bytes:
    return value.to_bytes(8, "little")


def unknown(state: State) -> list[str]:
    """Name the libraries of which it is not known whether they stay."""
    return [library.name for library in state.libraries if library.held is None]


def said(state: State) -> list[str]:
    """Return what is said of link maps: which member, and what contradicts it."""
    end = ": whether it stays is not known"
    texts = [problem.message for problem in state.problems if problem.message.endswith(end)]
    return [f"{text.partition(' ')[0]}: {text[: -len(end)].partition(', but ')[2]}" for text in texts]


def test_a_process_in_order_is_contradicted_by_nothing() -> None:
    state = explain(process().target())
    assert (state.problems, unknown(state)) == ((), [])


@pytest.mark.parametrize(
    ("place", "content", "text"),
    [
        (L_NS, word(3), "l_ns: it is in the list of namespace 0"),
        (KINDS, bytes([STARTED]), "l_type: it is an opened library by the main program's l_initfini at"),
        (KINDS, bytes([PROGRAM]), "l_type: it is an opened library by the main program's l_initfini at"),
        (V240_LIVE.loader, word(0x1234), "l_loader: there is no library at that address"),
        (L_ADDR, word(0x1000), f"l_addr: by the program headers at l_map_start it is {BASE:#x}"),
        (L_LD, word(BASE + 0x1010), f"l_ld: by the program headers PT_DYNAMIC is at {BASE + DYNAMIC:#x}"),
        (V240_LIVE.map_start, word(0x1000), f"l_map_start: by the program headers the first segment is at {BASE:#x}"),
        (
            V240_LIVE.map_start + 8,
            word(BASE + 0x9000),
            f"l_map_end: by the program headers the last segment ends at {BASE + IMAGE_SIZE:#x}",
        ),
        (KINDS, bytes([OPENED & ~8]), "l_relocated: l_init_called is 1: constructors run after the relocation"),
        (AUDITING, b"\1", "l_auditing: it is in namespace 0, and auditing libraries have their own"),
        (PENDING, b"\1", "l_nodelete_pending: no dlopen runs that could make it l_nodelete_active"),
        (V240_LIVE.flags_1, b"\x08", "l_nodelete_active: l_flags_1 is 0x8, which has DF_1_NODELETE"),
        (R_LIST, word(0), "l_direct_opencount: l_searchlist.r_list is 0: a library that was opened has one"),
    ],
)
def test_a_member_that_is_contradicted_leaves_open_what_rests_on_it(place: int, content: bytes, text: str) -> None:
    state = explain_damaged(process(), "liba.so", (place, content))
    (found,) = said(state)
    assert found.startswith(text)
    assert unknown(state) == ["liba.so", "libb.so"]


def test_what_would_make_a_library_go_that_is_contradicted_is_not_known() -> None:
    made = process()
    target = made.target()
    target.overwrite(made.map_of("liba.so") + L_NS, word(3))
    (plan,) = plan_close(target, "liba.so", int).plans
    assert (plan.outcome, plan.remedy) == (Outcome.UNKNOWN, None)


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("ld.so", (L_REAL, word(0x4000)), "l_real: the link map's own address is"),
        ("ld.so", (L_LD, word(0x5000)), "l_real: its l_ld is 0x5000, and ld.so's"),
        ("libthere.so", (KINDS, bytes([STARTED])), "l_type: it is an opened library by the list of namespaces"),
        ("libthere.so", (AUDITING, b"\1"), "l_auditing: it does not export la_version, as auditing libraries do"),
    ],
)
def test_a_member_of_another_namespace(name: str, change: Change, text: str) -> None:
    state = explain_damaged(process(), name, change, namespace=1)
    (found,) = said(state)
    assert found.startswith(text)
    assert name in unknown(state)
    assert "liba.so" not in unknown(state)


def test_an_auditing_library_exports_what_it_must() -> None:
    made = process(Library("libaudit.so", namespace=2, opencount=1, functions={"la_version": 8}))
    assert said(explain_damaged(made, "libaudit.so", (AUDITING, b"\1"), namespace=2)) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (None, None),
        ((L_LD, word(0x1000)), f"l_ld: l_map_start is {BASE:#x}, and l_map_end {BASE + IMAGE_SIZE:#x}"),
        ((V240_LIVE.map_start + 8, word(BASE + 0x9000)), "l_map_end: by the program headers the last segment ends at"),
        # What is not known contradicts nothing.
        ((V240_LIVE.phdr, word(0)), None),
        ((V240_LIVE.phdr, word(BASE + 0x2000)), None),
    ],
)
def test_where_a_library_lies_whose_elf_header_cannot_be_read(change: Optional[Change], text: Optional[str]) -> None:
    state = explain_damaged(process(), "liba.so", *([change] if change else []), unread=0x40)
    assert [each.startswith(text or "") for each in said(state)] == [True] * (text is not None)


def test_a_library_without_a_cause_for_nodelete_is_not_taken_for_it() -> None:
    state = explain_damaged(process(), "libb.so", (ACTIVE, b"\1"))
    (found,) = said(state)
    assert found.startswith("l_nodelete_active: neither l_flags_1 nor a unique symbol is the cause")
    assert unknown(state) == ["libb.so"]


def test_a_unique_symbol_makes_its_library_nodelete() -> None:
    made = process()
    made.unique = (("symbol", "liba.so"),)
    (found,) = said(explain(made.target()))
    assert found.startswith("l_nodelete_active: it has the unique symbol at ")
    # A table that cannot be read contradicts nothing.
    target = made.target()
    target.overwrite(made.base(made.library("ld.so")) + DATA + V240_LIVE.unique_entries, word(0xDEAD_0000))
    assert said(explain(target)) == []


def test_more_destructors_wait_than_are_counted(rich_core: Path) -> None:
    target = snapshot(rich_core)
    holds = [hold for library in explain(target).libraries for hold in library.holds]
    (evidence,) = next(hold.evidence for hold in holds if hold.kind is HoldKind.TLS_DESTRUCTORS)
    target.overwrite(evidence.address, word(0))
    (found,) = said(explain(target))
    assert found == f"l_tls_dtor_count: {evidence.value} pending destructors were found in the threads' lists"


def test_destructors_are_counted_of_a_library_that_registers_none() -> None:
    made = process()
    made.library("liba.so").registers_destructors = False
    state = explain_damaged(made, "liba.so", (V240_LIVE.dtor_count or 0, word(1)))
    (found,) = said(state)
    assert found == "l_tls_dtor_count: no thread's list has one, and it does not import __cxa_thread_atexit"
    # That the lists of threads cannot be read is said once, though they are looked for more often.
    assert [problem.where for problem in state.problems].count("glibc's threads") == 1


# -- what nothing seems to keep -------------------------------------------------------------------------------

CLOSED = (V240_LIVE.opencount, bytes(4))


def test_a_library_that_outlasts_its_last_close_was_seen_by_it() -> None:
    state = explain_damaged(process(), "liba.so", CLOSED, (V240_LIVE.idx, bytes(4)), (USED, b"\0"))
    assert said(state) == ["l_idx: nothing keeps it, and the last close would have set -1"]
    assert unknown(state) == ["liba.so"]


@pytest.mark.parametrize("registers", [[], ["liba.so"], ["libb.so"], ["liba.so", "libb.so"]])
def test_only_destructors_leave_a_library_that_nothing_keeps(registers: Sequence[str]) -> None:
    made = process()
    for name in ("liba.so", "libb.so"):
        made.library(name).registers_destructors = name in registers
    state = explain_damaged(made, "liba.so", CLOSED)
    # What libb.so registers keeps itself, and not what needs it.
    assert (
        unknown(state)
        == {
            (): ["liba.so", "libb.so"],
            ("liba.so",): [],
            ("libb.so",): ["liba.so"],
            ("liba.so", "libb.so"): [],
        }[tuple(registers)]
    )
    assert all(
        each.startswith("l_direct_opencount: nothing else keeps it, though it is loaded") for each in said(state)
    )


@pytest.mark.parametrize("change", [(PENDING, b"\1"), (R_LIST, word(0)), (KINDS, bytes([OPENED & ~8]))])
def test_while_the_loader_works_its_flags_and_counts_contradict_nothing(change: Change) -> None:
    made = process()
    made.lock = (4711, 1)
    assert said(explain_damaged(made, "liba.so", change)) == []
