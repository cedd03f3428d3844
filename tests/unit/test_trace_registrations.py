"""Is each destructor of a thread-local object told when it is registered: which library it keeps, and who did that?"""

from __future__ import annotations

import json

import pytest
from dlwhy.common.commands.dltrace.document import dump_event
from dlwhy.common.errors import UnsupportedError
from dlwhy.common.linux.trace.events import TlsRegistration
from dlwhy.tests.schema import validator_of
from dlwhy.tests.support.live_glibc import LIBC_FUNCTIONS, Script
from dlwhy.tests.support.told import place, told
from dlwhy.tests.synth.glibc import Library

CODE = {"code": 0x18, "~Tally": 0x18}


def script(*more: Library) -> Script:
    return Script(Library("libb.so", functions=CODE), Library("liba.so", needs=["libb.so"], functions=CODE), *more)


def register(made: Script, caller: str, owner: str, kept: str) -> None:
    """Let a function of one library register a destructor of another one, which keeps a third."""
    with made.main.within((caller, "code")):
        made.main.register_destructor(made.address((owner, "~Tally")), 0x1234, made.library(kept))


def test_a_registration_is_told_with_its_destructor_and_its_caller() -> None:
    made = script()
    made.begin(tls=True)
    made.main.dlopen("liba.so")
    made.report()
    register(made, "libb.so", "libb.so", "libb.so")
    (event,) = [event for event in made.events if isinstance(event, TlsRegistration)]
    assert told([event]) == ["register libb.so: libb.so:~Tally"]
    assert (place(event.header.caller), event.object, event.is_elsewhere) == ("libb.so:code", 0x1234, False)
    assert made.report().tls_registrations == (event,)


def test_a_destructor_of_another_library_than_the_one_that_it_keeps_is_said_so() -> None:
    made = script()
    made.begin(tls=True)
    made.main.dlopen("liba.so")
    made.report()
    register(made, "liba.so", "liba.so", "libb.so")
    assert told(made.events[-1:]) == ["register libb.so: liba.so:~Tally, of liba.so"]


def test_which_library_it_keeps_is_unknown_while_not_all_can_be_read() -> None:
    made = script()
    made.begin(tls=True)
    made.main.dlopen("liba.so")
    made.target.forget(made.handle("liba.so"), 8)
    register(made, "libb.so", "libb.so", "libb.so")
    (event,) = [event for event in made.events if isinstance(event, TlsRegistration)]
    document = json.loads(dump_event(event))
    validator_of("event").validate(document)
    assert (document["library"], document["destructor_elsewhere"]) == (None, None)


def test_a_library_that_came_a_moment_ago_is_known() -> None:
    made = script()
    made.begin(tls=True)
    made.constructors["libb.so"] = lambda thread: register(made, "libb.so", "libb.so", "libb.so")
    made.main.dlopen("liba.so")
    made.report()
    assert told(made.events)[0] == "in 1: register libb.so: libb.so:~Tally"
    # The library is found for its name only: that it came is told by the open.
    assert told(made.events)[1] == "open liba.so: loaded + liba.so libb.so"


def test_what_it_keeps_is_told_at_the_close() -> None:
    made = script()
    made.begin(tls=True)
    handle = made.main.dlopen("liba.so")
    register(made, "libb.so", "libb.so", "libb.so")
    made.main.dlclose(handle)
    made.library("libb.so").owed = 0
    made.main.dlclose(made.main.dlopen("liba.so"))
    made.report()
    assert [text for text in told(made.events) if text.startswith("close")] == [
        "close liba.so 1: unloads - liba.so; stays libb.so",
        "close liba.so 1: unloads - liba.so libb.so",
    ]
    (kept,) = made.report().kept
    assert [hold.kind.value for hold in kept.library.holds] == ["tls-destructors"]


def test_libstdcxx_only_passes_on_what_it_is_asked_for() -> None:
    made = script(Library("libstdc++.so.6", functions={"__cxa_thread_atexit": 0x28}))
    made.begin(tls=True)
    made.main.dlopen("libb.so")
    made.main.dlopen("libstdc++.so.6")
    with made.main.within(("libb.so", "code")):
        made.main.call(("libb.so", "code"), has_frame=False)
        frame = made.library("libstdc++.so.6").functions["__cxa_thread_atexit"]
        with made.main.within(("libstdc++.so.6", "__cxa_thread_atexit"), frame):
            made.main.register_destructor(made.address(("libb.so", "~Tally")), 0, made.library("libb.so"))
    (event,) = [event for event in made.events if isinstance(event, TlsRegistration)]
    assert place(event.header.caller) == "libb.so:code"


def test_a_destructor_that_lies_nowhere() -> None:
    made = script()
    made.begin(tls=True)
    made.main.dlopen("libb.so")
    made.main.call_libc("__cxa_thread_atexit_impl", 0x1000, 0x2000, 0x3000)
    assert told(made.events[-1:]) == ["register main: None:None"]


def test_memory_that_cannot_be_read_is_a_problem() -> None:
    made = script()
    made.begin(tls=True)
    made.target.forget(made.process.base(made.library("ld.so")), 0x5000)
    made.main.call_libc("__cxa_thread_atexit_impl", 0x1000, 0x2000, 0x3000)
    made.target.heal()
    assert [problem.where for problem in made.report().problems] == ["__cxa_thread_atexit_impl in thread 4711"]


def test_without_being_asked_nothing_is_watched() -> None:
    made = script()
    made.begin()
    made.main.dlopen("libb.so")
    register(made, "libb.so", "libb.so", "libb.so")
    assert made.report().tls_registrations == ()


def test_a_glibc_that_cannot_register_any() -> None:
    made = script()
    names = [name for name in LIBC_FUNCTIONS if name != "__cxa_thread_atexit_impl"]
    made.library("libc.so.6").functions = dict.fromkeys(names, 0x18)
    with pytest.raises(UnsupportedError, match=r"older than 2\.18"):
        made.begin(tls=True)
