"""Who called, and through which instructions: is that found from the registers, the stack and the images alone?"""

from __future__ import annotations

import pytest
from dlwhy.common.errors import UnsupportedError
from dlwhy.common.linux.trace import callers
from dlwhy.common.linux.trace.callers import Callers
from dlwhy.common.linux.trace.entry_points import CONVENTIONS
from dlwhy.common.memory import Memory
from dlwhy.common.model import Platform
from dlwhy.tests.fakes import FakeTarget
from dlwhy.tests.support.live import Arrival
from dlwhy.tests.support.live_glibc import LIBC_FUNCTIONS, NOWHERE, NOWHERE_ADDRESS, RAISERS, LiveGlibc, Script
from dlwhy.tests.support.told import place
from dlwhy.tests.synth.glibc import Library

CODE = {"code": 0x18}
STACK = 0x7000


def script(in_rtld: bool = True) -> Script:
    return Script(Library("liba.so", functions=CODE), Library("libx.so", functions=CODE), in_rtld=in_rtld)


def callers_of(made: Script) -> list[str]:
    """Return who called, event by event."""
    made.report()
    return [f"{event.header.initiated_by} {place(event.header.caller)}" for event in made.events]


# -- who called -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_rtld", [True, False])
def test_each_way_through_libc_ends_at_its_own_caller(in_rtld: bool) -> None:
    made = script(in_rtld)
    first, second = made.main.dlopen("liba.so"), made.main.dlopen("libx.so")
    made.begin()
    for _ in range(2):
        made.main.dlclose(made.main.dlopen("libx.so"))
        with made.main.within(("liba.so", "code")):
            made.main.dlclose(made.main.dlopen("libx.so", by_libc=True), by_libc=True)
    assert first
    assert second
    assert callers_of(made) == ["user main:main", "user main:main", "libc liba.so:code", "libc liba.so:code"] * 2


def test_a_way_is_known_again_without_unwinding_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = script()
    handle = made.main.dlopen("libx.so")
    made.library("libx.so").opencount = 5
    made.begin()
    made.main.dlclose(handle)
    monkeypatch.setattr(callers, "walk", lambda *_: iter(()))
    made.main.dlclose(handle)
    with made.main.within(("main", "worker")):
        made.main.dlclose(handle)
    # Another way is another one.
    made.main.dlclose(handle, by_libc=True)
    assert callers_of(made) == ["user main:main", "user main:main", "user main:worker", "libc ?"]


def test_without_call_frame_information_the_caller_is_not_known() -> None:
    made = script()
    rtld = made.library("ld.so")
    made.begin()
    handle = made.main.dlopen("libx.so")
    # The page with ld.so's tables is gone.
    made.target.forget(made.process.base(rtld), 0x1000)
    made.main.dlclose(handle)
    made.target.heal()
    made.report()
    assert [event.header.caller is None for event in made.events] == [False, True]


def test_a_caller_in_no_library_has_an_address_only() -> None:
    made = script()
    made.begin()
    with made.main.within(NOWHERE):
        made.main.dlclose(made.main.dlopen("libx.so"))
    assert callers_of(made) == ["user None:None"] * 2
    assert {event.header.caller and event.header.caller.address for event in made.events} == {NOWHERE_ADDRESS + 8}


def test_a_source_line_is_asked_for_once_for_each_place_and_library() -> None:
    made = script()
    made.begin()
    asked = []
    made.target.find_line = lambda address: asked.append(address) or "main.c:12"  # type: ignore[method-assign, func-returns-value]
    for _ in range(3):
        made.main.dlclose(made.main.dlopen("libx.so"))
    made.report()
    assert [event.header.caller and event.header.caller.line for event in made.events] == ["main.c:12"] * 6
    assert len(asked) == 1


def test_a_place_where_another_library_has_come_is_named_anew() -> None:
    made = script()
    made.begin()
    handle = made.main.dlopen("liba.so")
    with made.main.within(("liba.so", "code")):
        made.main.dlopen("libmissing.so")
    made.main.dlclose(handle)
    made.process.bases["libx.so"] = made.process.bases["liba.so"]
    made.main.dlopen("libx.so")
    with made.main.within(("libx.so", "code")):
        made.main.dlopen("libmissing.so")
    assert [each for each in callers_of(made) if "main" not in each] == ["user liba.so:code", "user libx.so:code"]


# -- where to break -------------------------------------------------------------------------------------------


def places(made: Script) -> dict[str, set[str]]:
    """Return the functions in which breakpoints stand, by library."""
    found: dict[str, set[str]] = {}
    for address in made.target.handlers:
        for library in made.process.libraries:
            for name in library.functions:
                if 0 <= address - made.process.base(library) - library.function(name) < 0x10:
                    found.setdefault(library.name, set()).add(name)
    return found


def test_in_ld_so_where_a_debugger_keeps_breakpoints_there() -> None:
    made = script()
    made.begin()
    assert places(made) == {"ld.so": {"_dl_open", "_dl_close", *RAISERS}, "libc.so.6": {"_exit"}}


def test_else_on_libcs_ways_there() -> None:
    made = script(in_rtld=False)
    made.begin()
    assert places(made) == {"libc.so.6": {"dlopen", "dlmopen", "dlclose", "do_dlopen", "do_dlclose", "_exit"}}


def test_before_2_34_in_libdl() -> None:
    libdl = Library("libdl.so.2", type=1, functions={"dlopen": 0x18, "dlmopen": 0x18, "dlclose": 0x18})
    made = Script(started=[libdl, Library("libcrypt.so.1", type=1, functions={"dlopen": 8})], in_rtld=False)
    libc = made.library("libc.so.6")
    libc.functions = {name: size for name, size in LIBC_FUNCTIONS.items() if not name.startswith("dl")}
    libc.code = {}
    made.begin()
    assert places(made) == {"libdl.so.2": {"dlopen", "dlmopen", "dlclose"}, "libc.so.6": {"_exit"}}


@pytest.mark.parametrize("value", ["absent", "not-code", "unreadable"])
def test_pointers_that_do_not_lead_to_code_are_not_believed(value: str) -> None:
    made = script()
    rtld = made.process.base(made.library("ld.so"))
    if value == "absent":
        made.library("ld.so").functions = {}
    made.refresh()
    if value == "not-code":
        made.target.overwrite(rtld + 0x4A00 + 864, (rtld + 0x2000).to_bytes(8, "little"))
    elif value == "unreadable":
        made.target.forget(rtld + 0x4A00 + 864, 8)
    made.begin()
    report = made.report()
    assert (report.opens_by, report.closes_by) == ("dlopen and dlmopen", "dlclose")
    assert places(made)["libc.so.6"] == {"dlopen", "dlmopen", "dlclose", "_exit"}


def test_a_call_through_another_table_is_not_libcs_own() -> None:
    made = script(in_rtld=False)
    made.refresh()
    libc = made.process.base(made.library("libc.so.6"))
    made.target.overwrite(libc + 0x3800, bytes(8))
    made.begin()
    assert places(made)["libc.so.6"] == {"dlopen", "dlmopen", "dlclose", "_exit"}


def test_code_of_libc_that_cannot_be_read() -> None:
    made = script(in_rtld=False)
    made.refresh()
    libc = made.library("libc.so.6")
    made.target.forget(made.process.base(libc) + libc.function("socket"), 1)
    made.begin()
    assert places(made)["libc.so.6"] == {"dlopen", "dlmopen", "dlclose", "_exit"}


def test_only_one_of_libcs_own_calls_is_said_to_be_none() -> None:
    made = script(in_rtld=False)
    libc = made.library("libc.so.6")
    libc.code = {"do_dlopen": libc.code["do_dlopen"]}
    made.begin()
    report = made.report()
    assert (report.opens_by, report.closes_by) == ("dlopen and dlmopen", "dlclose")


# -- other processors -----------------------------------------------------------------------------------------


def arrived(arch: str, size: int) -> tuple[Callers, Arrival, Memory]:
    """Return a thread at the first instruction of a function, on a processor."""
    platform = Platform(arch, size, "little")
    words = b"".join(number.to_bytes(size, "little") for number in range(100, 164))
    target = FakeTarget({STACK: words}, platform)
    convention = CONVENTIONS[arch]
    registers = {name: 10 + index for index, name in enumerate(convention.arguments)}
    registers[convention.stack] = STACK
    if convention.link:
        registers[convention.link] = 55
    live: LiveGlibc = target  # type: ignore[assignment]
    return Callers(live, convention, 0), Arrival(0x1000, 1, registers), Memory(target)


@pytest.mark.parametrize(
    ("arch", "size", "arguments", "returns_to", "saved"),
    [
        ("x86_64", 8, [10, 11, 12, 13], 100, 100),
        ("i386", 4, [101, 102, 103, 104], 100, 100),
        ("aarch64", 8, [10, 11, 12, 13], 55, None),
        ("s390x", 8, [10, 11, 12, 13], 55, None),
    ],
)
def test_arguments_and_return_address_by_the_convention(
    arch: str, size: int, arguments: list[int], returns_to: int, saved: int
) -> None:
    found, hit, memory = arrived(arch, size)
    assert [found.argument(hit, memory, index) for index in range(4)] == arguments
    assert found.return_address(hit, memory) == returns_to
    assert found.saved_return(memory, STACK) == saved
    assert found.saved_return(memory, 0x10) is None
    assert found.stack(hit) == STACK


def test_a_processor_whose_convention_is_not_known_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(CONVENTIONS, "x86_64")
    with pytest.raises(UnsupportedError, match="tracing on x86_64 is not supported"):
        script().begin()
