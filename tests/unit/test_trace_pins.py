"""Is a library that becomes NODELETE told at once, with what made it so and who looked that up?"""

from __future__ import annotations

from dlwhy.common.linux.trace.events import Pin
from dlwhy.tests.support.live_glibc import RTLD_NODELETE, RTLD_NOW, Script
from dlwhy.tests.support.told import told
from dlwhy.tests.synth.glibc import Library

CODE = {"code": 0x18}
SYMBOLS = {"_ZN3RegIiE4instE": (0x2000, 8)}


def test_by_its_own_flag() -> None:
    made = Script(Library("libp.so", elf_nodelete=True))
    made.begin()
    made.main.dlopen("libp.so")
    (pin,) = made.report().pins
    assert told([pin]) == ["in 1: pin libp.so: elf-flag"]
    assert told(made.events) == ["in 1: pin libp.so: elf-flag", "open libp.so: loaded + libp.so"]
    assert pin.header.tid == 4711


def test_by_a_flag_of_dlopen() -> None:
    made = Script(Library("libp.so"), Library("libx.so"))
    made.begin()
    made.main.dlopen("libp.so", RTLD_NOW | RTLD_NODELETE)
    made.main.dlopen("libx.so")
    made.report()
    assert told(made.events)[0] == "in 1: pin libp.so: dlopen-flag"


def test_a_library_that_is_there_already_by_a_later_dlopen() -> None:
    made = Script(Library("libp.so"))
    made.begin()
    made.main.dlopen("libp.so")
    made.main.dlopen("libp.so", RTLD_NOW | RTLD_NODELETE)
    made.main.dlopen("libp.so", RTLD_NOW | RTLD_NODELETE)
    made.report()
    assert [text for text in told(made.events) if "pin" in text] == ["in 2: pin libp.so: dlopen-flag"]


def test_by_a_unique_symbol_that_another_library_looked_up() -> None:
    made = Script(
        Library("libp.so", symbols=SYMBOLS),
        Library("libuser.so", imports={"_ZN3RegIiE4instE": "libp.so"}, needs=["libp.so"]),
        Library("libother.so", imports={"_ZN3RegIiE4instE": None}),
    )
    made.begin()
    made.main.dlopen("libother.so")

    def work() -> int:
        handle = made.open(made.main, "libuser.so", RTLD_NOW, 0)
        made.process.unique = [("_ZN3RegIiE4instE", "libp.so")]
        made.library("libp.so").nodelete = True
        return handle

    made.main.dlopen("libuser.so", work=work)
    made.report()
    (pin,) = [event for event in made.events if isinstance(event, Pin)]
    assert (pin.origin, pin.library.name, pin.looked_up_by) == ("unique-symbol", "libp.so", ("libuser.so",))
    assert len(pin.symbols or ()) == 1
    assert pin.symbols_omitted == 0
    assert pin.header.within_event == 2


def test_by_a_library_of_the_programs_start_that_bound_to_it() -> None:
    tool = Library("libtool.so", type=1, imports={"hook": None}, functions=CODE)
    made = Script(Library("libp.so", symbols={"hook": (0x2000, 8)}), started=[tool])
    made.begin()

    def work() -> int:
        handle = made.open(made.main, "libp.so", RTLD_NOW, 0)
        made.library("libtool.so").imports = {"hook": "libp.so"}
        made.library("libp.so").nodelete = True
        made.library("libp.so").is_global = True
        return handle

    made.main.dlopen("libp.so", work=work)
    made.report()
    assert told(made.events)[0] == "in 1: pin libp.so: bound-by-startup hook for libtool.so"


def test_by_dlsym_which_leaves_no_trace() -> None:
    made = Script(Library("libp.so", is_global=True))
    made.begin()
    made.main.dlopen("libp.so")
    made.report()
    made.library("libp.so").nodelete = True
    made.main.dlclose(0x1000)
    assert [text for text in told(made.events) if "pin" in text] == ["pin libp.so: bound-by-startup"]
    # Nobody is in the loader: the event belongs to no thread.
    (pin,) = made.report().pins
    assert (pin.header.tid, pin.header.caller) == (0, None)
    assert (pin.symbols, pin.looked_up_by) == (None, None), "not known, which is not none"


def test_what_was_nodelete_before_is_not_told() -> None:
    made = Script(Library("libp.so", elf_nodelete=True), Library("libx.so"))
    made.main.dlopen("libp.so")
    made.begin()
    made.main.dlopen("libp.so")
    made.main.dlopen("libx.so")
    assert made.report().pins == ()


def test_the_verdict_on_what_stays_for_good_shows_its_counts_of_now() -> None:
    made = Script(Library("libp.so", elf_nodelete=True))
    made.begin()
    handle = made.main.dlopen("libp.so")
    made.main.dlclose(handle)
    made.main.dlopen("libp.so")
    made.main.dlclose(handle)
    (kept,) = made.report().kept
    assert kept.times_kept == 2
    assert kept.library.fields["l_direct_opencount"] == 2
    (hold,) = kept.library.holds
    assert {evidence.expression.rpartition("->")[2]: evidence.value for evidence in hold.evidence} == {
        "l_nodelete_active": 1,
        "l_direct_opencount": 2,
    }
