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
from dlwhy.tests.support.live_glibc import (
    LIBC_FUNCTIONS,
    NEW_NAMESPACE,
    NOWHERE,
    NOWHERE_ADDRESS,
    RAISERS,
    LiveGlibc,
    Script,
    Way,
)
from dlwhy.tests.support.told import place
from dlwhy.tests.synth.glibc import HASH, SLOTS, SYMBOLS, Library

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


@pytest.mark.parametrize("what", ["image", "image and map"])
def test_a_place_where_another_library_has_come_is_named_anew(what: str) -> None:
    made = script()
    made.begin()
    handle = made.main.dlopen("liba.so")
    with made.main.within(("liba.so", "code")):
        made.main.dlopen("libmissing.so")
    made.main.dlclose(handle)
    made.process.bases["libx.so"] = made.process.bases["liba.so"]
    if what == "image and map":
        made.process.maps["libx.so"] = made.process.maps["liba.so"]
    made.main.dlopen("libx.so")
    with made.main.within(("libx.so", "code")):
        made.main.dlopen("libmissing.so")
    assert [each for each in callers_of(made) if "main" not in each] == ["user liba.so:code", "user libx.so:code"]


# -- who called what only passes that on ----------------------------------------------------------------------

#: One is known by its name; of the others what they hand over tells.
GMODULE, WRAP, OUTER = ("libgmodule-2.0.so.0", "open"), ("libwrap.so", "open"), ("libouter.so", "open")
NAME = b"libx.so\0"


def passing(way: Way = Way.IN_RTLD, **constants: bytes) -> Script:
    """Begin to trace a process with libraries that pass opens and closes on; each has a name among its data.

    Some have constants, too: ``libwrap``, ``libouter``.
    """
    opening = [
        Library(name, type=1, functions={"open": 0x28}, data={SLOTS: NAME}) for name, _ in (GMODULE, WRAP, OUTER)
    ]
    made = Script(Library("libx.so", functions=CODE), started=opening, in_rtld=way)
    made.library("main").data = {SLOTS: NAME}
    for library in made.process.libraries:
        library.constants = constants.get(library.name.partition(".")[0], b"")
    made.begin()
    return made


def open_constant(made: Script, library: str) -> int:
    """Open what a library has a name of."""
    return made.main.dlopen("libx.so", named_at=made.process.base(made.library(library)) + SLOTS)


def behind(made: Script) -> list[str]:
    """Return who called, event by event, and through which library."""
    made.report()
    sites = [event.header.caller for event in made.events]
    return [f"{place(site)} through {site.through}" if site and site.through else place(site) for site in sites]


@pytest.fixture(params=list(Way), ids=[way.name.lower() for way in Way])
def way(request: pytest.FixtureRequest) -> Way:
    """See opens and closes at exported functions, in ld.so, or where it has the lock."""
    assert isinstance(request.param, Way)
    return request.param


def test_a_library_that_is_known_by_its_name_is_looked_behind(way: Way) -> None:
    made = passing(way)
    with made.main.called(GMODULE):
        made.main.dlclose(made.main.dlopen("libx.so"))
    with made.main.called(WRAP), made.main.called(GMODULE):
        made.main.dlclose(made.main.dlopen("libx.so"))
    through = "through libgmodule-2.0.so.0"
    assert behind(made) == [f"main:main {through}"] * 2 + [f"libwrap.so:open {through}"] * 2


def test_a_constant_belongs_to_who_hands_it_over(way: Way) -> None:
    made = passing(way)
    with made.main.called(OUTER), made.main.called(WRAP):
        # What passed on an open does so with closes.
        made.main.dlclose(open_constant(made, "main"))
        made.main.dlclose(open_constant(made, "libouter.so"))
    assert behind(made) == ["main:main through libwrap.so"] * 2 + [
        "libouter.so:open through libwrap.so",
        "main:main through libwrap.so",
    ]


def test_who_opens_a_constant_of_its_own_closes_for_itself(way: Way) -> None:
    made = passing(way)
    with made.main.called(WRAP):
        made.main.dlclose(open_constant(made, "libwrap.so"))
        # It passes this one on, but not everything.
        made.main.dlclose(open_constant(made, "main"))
    assert behind(made) == ["libwrap.so:open"] * 2 + ["main:main through libwrap.so", "libwrap.so:open"]


def test_a_variable_belongs_to_the_function_in_whose_frame_it_is(way: Way) -> None:
    made = passing(way)
    of_main = made.main.variable(NAME)
    with made.main.called(OUTER):
        of_outer = made.main.variable(NAME)
        with made.main.called(WRAP):
            of_wrap = made.main.variable(NAME)
            for each in (of_main, of_outer, of_wrap):
                made.main.dlopen("libx.so", named_at=each)
    assert behind(made) == ["main:main through libwrap.so", "libouter.so:open through libwrap.so", "libwrap.so:open"]


def test_a_copy_belongs_to_who_has_the_name_among_its_constants(way: Way) -> None:
    made = passing(way, libouter=b"\0libx.so\0./liba.so\0", libwrap=b"\0./liba.so\0")
    with made.main.called(OUTER), made.main.called(WRAP):
        own = made.main.variable(NAME)
        made.main.dlclose(made.main.dlopen("libx.so"))
        made.main.dlopen("libx.so", named_at=own)
        # The wrapper has the first name, too; the second is what a library itself is called, the third a part of one.
        for name in ("./liba.so", "libouter.so", "bx.so"):
            made.main.dlopen(name)
    assert behind(made) == ["libouter.so:open through libwrap.so"] * 3 + ["libwrap.so:open"] * 3


def test_a_copy_of_a_name_that_cannot_be_searched_for(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    made = passing(way, libouter=b"\0libx.so\0")
    monkeypatch.setattr(callers, "_MAX_CONSTANTS", 0x10)
    with made.main.called(OUTER), made.main.called(WRAP):
        made.main.dlopen("libx.so")
    assert behind(made) == ["libwrap.so:open"]


def test_a_name_of_a_library_that_called_nobody_tells_nothing(way: Way) -> None:
    made = passing(way)
    with made.main.called(WRAP):
        open_constant(made, "libouter.so")
    assert behind(made) == ["libwrap.so:open"]


def test_behind_code_in_no_library_nothing_is_found(way: Way) -> None:
    made = passing(way)
    with made.main.within(NOWHERE):
        for each in (GMODULE, WRAP):
            with made.main.called(each):
                open_constant(made, "main")
    assert behind(made) == ["libgmodule-2.0.so.0:open", "libwrap.so:open"]


def test_a_library_where_one_was_that_passed_calls_on_is_another(way: Way) -> None:
    made = passing(way)
    made.known["libpasses.so"] = Library("libpasses.so", functions=CODE)
    other = made.main.dlopen("libpasses.so")
    with made.main.called(("libpasses.so", "code")):
        handle = open_constant(made, "main")
        made.main.dlclose(handle)
    made.main.dlclose(other)
    made.known["libself.so"] = Library("libself.so", functions=CODE)
    for places in (made.process.bases, made.process.maps):
        places["libself.so"] = places["libpasses.so"]
    made.main.dlopen("libself.so")
    with made.main.called(("libself.so", "code")):
        made.main.dlclose(handle)
    told = behind(made)
    assert told[1:3] == ["main:main through libpasses.so"] * 2
    assert told[-1] == "libself.so:code"


def test_a_plugin_that_was_rebuilt_and_loaded_again_has_its_own_functions() -> None:
    made = script()
    handle = made.main.dlopen("libx.so")
    plugin = made.main.dlopen("liba.so")
    made.begin()
    for name in ("code", "other"):
        made.known["liba.so"] = Library("liba.so", functions={name: 0x18})
        made.main.dlclose(plugin)
        plugin = made.main.dlopen("liba.so")
        with made.main.within(("liba.so", name)):
            made.main.dlclose(made.main.dlopen("libx.so"))
    assert handle
    assert callers_of(made)[2:] == [
        *["user liba.so:code"] * 2,
        *["user main:main"] * 2,
        *["user liba.so:other"] * 2,
    ]


def test_what_is_remembered_of_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_SITES", "MAX_WAYS"):
        monkeypatch.setattr(callers, name, 0)
    made = passing()
    asked = []
    made.target.find_line = lambda address: asked.append(address) or "main.c:12"  # type: ignore[method-assign, func-returns-value]
    with made.main.called(WRAP):
        for _ in range(2):
            made.main.dlclose(open_constant(made, "main"))
    # That it passed on an open is forgotten by the close.
    assert behind(made) == ["main:main through libwrap.so", "libwrap.so:open"] * 2
    assert len(asked) > len(set(asked))


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


# -- what is not watched --------------------------------------------------------------------------------------


def not_watched(made: Script) -> dict[str, str]:
    """Return the report's problems, by what each is about."""
    return {problem.where: problem.message for problem in made.report().problems}


def test_what_a_libc_exports_cannot_be_read() -> None:
    made = script(in_rtld=False)
    made.known["libspace.so"] = Library("libspace.so", needs=["libc.so.6"])
    made.main.dlopen("libspace.so", namespace=NEW_NAMESPACE)
    made.refresh()
    made.target.forget(made.process.bases["libc.so.6@1"] + HASH, 0x10)
    made.begin()
    problems = not_watched(made)
    assert set(problems) == {f"{name} in libc.so.6 of namespace 1" for name in ("dlopen", "dlmopen", "dlclose")}
    assert problems["dlclose in libc.so.6 of namespace 1"].endswith(": closes through it are not seen")
    assert {"dlopen", "dlmopen", "dlclose"} < places(made)["libc.so.6"], "those of the first one are"


def test_the_image_of_a_libc_cannot_be_read() -> None:
    made = script(in_rtld=False)
    made.known["libspace.so"] = Library("libspace.so", needs=["libc.so.6"])
    made.main.dlopen("libspace.so", namespace=NEW_NAMESPACE)
    made.refresh()
    made.target.forget(made.process.bases["libc.so.6@1"], 0x40)
    made.begin()
    assert set(not_watched(made)) == {
        f"{name} in libc.so.6 of namespace 1" for name in ("dlopen", "dlmopen", "dlclose")
    }
    assert {"do_dlopen", "do_dlclose"} < places(made)["libc.so.6"]


def test_functions_beside_opens_and_closes_cannot_be_read() -> None:
    made = script()
    made.refresh()
    libc = made.library("libc.so.6")
    names = ("_exit", "__cxa_thread_atexit_impl")
    for name in names:
        index = 1 + len(libc.symbols) + list(libc.functions).index(name)
        made.target.forget(made.process.base(libc) + SYMBOLS + 24 * index, 24)
    made.begin(tls=True)
    problems = not_watched(made)
    assert set(problems) == set(names)
    assert all(message.endswith(": calls of it are not seen") for message in problems.values())
    assert "libc.so.6" not in places(made)


def test_exported_functions_that_are_not_there() -> None:
    made = script(in_rtld=False)
    libc = made.library("libc.so.6")
    libc.functions = {name: size for name, size in LIBC_FUNCTIONS.items() if name not in ("dlmopen", "dlclose")}
    libc.code = {}
    made.begin()
    assert not_watched(made) == {
        "dlmopen": "neither libc nor libdl exports it: opens through it are not seen",
        "dlclose": "neither libc nor libdl exports it: closes through it are not seen",
    }
    libc.path = "/usr/lib/libother.so"
    with pytest.raises(UnsupportedError, match="neither _dl_close nor dlclose can be found"):
        made.begin()


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
