"""Does a failed open tell the error that it failed with, and no other one?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from dlwhy.common.errors import FaultError
from dlwhy.common.linux.elf.image import ElfImage
from dlwhy.common.linux.loader.maps import Graph
from dlwhy.common.linux.trace.events import Open
from dlwhy.common.linux.trace.failures import find_raisers
from dlwhy.common.memory import Memory
from dlwhy.tests.fakes import I386, FakeTarget
from dlwhy.tests.support.live_glibc import MAIN, STRINGS, Call, Script, Thread
from dlwhy.tests.support.told import told
from dlwhy.tests.synth.glibc import Library

RTLD_NOLOAD = 4
NOT_FOUND = "cannot open shared object file"
MISSING = (f"libmissing.so: {NOT_FOUND}: No such file or directory", 2)


def script(**more: Any) -> Script:
    """Return a process that can load some libraries; `dlopen` of any other one fails."""
    code = {"code": 0x18}
    return Script(Library("liba.so", functions=code), Library("libx.so", functions=code), **more)


#: ld.so's own functions in a debugger that keeps breakpoints there, and libc's in one that does not.
WAYS = [{"in_rtld": True}, {"in_rtld": True, "version": (2, 36)}, {"in_rtld": False, "version": (2, 36)}]


@pytest.fixture(params=WAYS, ids=["ld.so", "libc, and all else in ld.so", "libc"])
def made(request: pytest.FixtureRequest) -> Script:
    return script(**request.param)


def errors(made: Script) -> list[tuple[object, object]]:
    """Return error and errno of each open that has been told."""
    made.report()
    return [(event.error, event.errno) for event in made.events if isinstance(event, Open)]


def fail_dlsym(thread: Thread, text: str = "undefined symbol: nowhere") -> None:
    """Look up from another place what is nowhere."""
    call = Call(thread, lambda: 0)
    thread.at = ("main", "worker")
    thread.call(thread.at, has_frame=False)
    thread.clobber()
    thread.script.raise_error(thread, "main", text, again=False)
    thread.at = ("main", "main")
    call.end()


def test_a_failed_open_tells_its_error(made: Script) -> None:
    made.begin()
    made.main.dlopen("liba.so")
    made.main.dlopen("libmissing.so")
    made.main.dlopen("libother.so")
    assert told(made.events) == ["open liba.so: loaded + liba.so", "open libmissing.so: failed"]
    other = f"libother.so: {NOT_FOUND}: No such file or directory"
    assert errors(made) == [(None, None), MISSING, (other, 2)]


@pytest.mark.parametrize(
    ("name", "text", "code", "expected"),
    [
        ("./liba.so", "file too short", 0, ("./liba.so: file too short", None)),
        ("", "out of memory", 12, ("out of memory: Cannot allocate memory", 12)),
        ("lib\udcff.so", "broken", 4095, ("lib\udcff.so: broken: Unknown error 4095", 4095)),
    ],
)
def test_the_text_is_put_together_as_dlerror_does(
    name: str, text: str, code: int, expected: tuple[str, int | None], made: Script
) -> None:
    made.begin()

    def fail() -> int:
        made.raise_error(made.main, name, text, code=code)
        return 0

    made.main.dlopen("liba.so", work=fail)
    assert errors(made) == [expected]


def test_the_first_error_counts_and_what_fails_later_is_not_the_opens(made: Script) -> None:
    made.begin()
    made.main.dlopen("libmissing.so")
    fail_dlsym(made.main)
    assert errors(made) == [MISSING]


def test_what_fails_after_an_open_that_raised_nothing_is_not_the_opens(made: Script) -> None:
    made.begin()
    made.main.dlopen("liba.so", RTLD_NOLOAD, work=lambda: 0)
    fail_dlsym(made.main)
    made.main.dlopen("liba.so")
    fail_dlsym(made.main)
    assert told(made.events) == ["open liba.so: not-loaded"]
    assert errors(made) == [(None, None), (None, None)]


def test_a_probe_that_finds_nothing_has_not_failed(made: Script) -> None:
    def refuse() -> int:
        made.raise_error(made.main, "", "invalid mode for dlopen()", code=22)
        return 0

    made.begin()
    made.main.dlopen("liba.so", RTLD_NOLOAD, work=lambda: 0)
    made.main.dlopen("libmissing.so", RTLD_NOLOAD)
    made.main.dlopen("libx.so", RTLD_NOLOAD, work=refuse)
    made.main.dlopen("libmissing.so")
    made.main.dlopen("libx.so")
    report = made.report()
    assert told(made.events) == [
        "open liba.so: not-loaded",
        "open libmissing.so: not-loaded",
        "open libx.so: failed",
        "open libmissing.so: failed",
        "open libx.so: loaded + libx.so",
    ]
    assert errors(made) == [
        (None, None),
        MISSING,
        ("invalid mode for dlopen(): Invalid argument", 22),
        MISSING,
        (None, None),
    ]
    assert (report.totals.opens, report.totals.opens_failed, report.totals.opens_not_loaded) == (5, 2, 2)
    assert [event.requested for event in report.opens_failed] == ["libx.so", "libmissing.so"]


def test_a_dlsym_before_any_open_or_further_up_in_the_stack_is_nobodys(made: Script) -> None:
    made.begin()
    fail_dlsym(made.main)
    with made.main.within(made.main.at, 0x800):
        made.main.dlopen("liba.so", RTLD_NOLOAD, work=lambda: 0)
    made.raise_error(made.main, "main", "undefined symbol: nowhere")
    assert errors(made) == [(None, None)]


def test_a_constructor_that_asks_in_vain_does_not_make_its_open_fail(made: Script) -> None:
    made.constructors["liba.so"] = fail_dlsym
    made.begin()
    made.main.dlopen("liba.so")
    made.main.dlopen("libmissing.so")
    assert errors(made) == [(None, None), MISSING]


def test_a_constructor_that_opens_in_vain(made: Script) -> None:
    made.constructors["liba.so"] = lambda thread: thread.dlopen("libmissing.so")
    made.begin()
    made.main.dlopen("liba.so")
    made.report()
    assert told(made.events) == ["open liba.so: loaded + liba.so", "in 1: open libmissing.so: failed"]
    assert errors(made) == [(None, None), MISSING]


def test_each_thread_has_errors_of_its_own(made: Script) -> None:
    made.begin()
    other = made.thread(4712)
    call = other.begin_open("libx.so")
    made.main.dlopen("libmissing.so")
    call.end()
    assert sorted(errors(made), key=str) == sorted([MISSING, (None, None)], key=str)


def test_what_cannot_be_read_is_not_known(made: Script) -> None:
    made.begin()

    def fail() -> int:
        made.target.forget(STRINGS, 0x1000)
        made.raise_error(made.main, "liba.so", "lost")
        made.target.heal()
        return 0

    made.main.dlopen("liba.so", work=fail)
    assert errors(made) == [(None, None)]
    assert made.report().problems == ()


def test_what_fails_after_an_error_that_cannot_be_read_does_not_take_its_place(made: Script) -> None:
    made.begin()

    def fail() -> int:
        made.target.forget(STRINGS, 0x1000)
        made.raise_error(made.main, "liba.so", "lost")
        made.target.heal()
        made.raise_error(made.main, "liba.so", "undefined symbol: nowhere")
        return 0

    made.main.dlopen("liba.so", work=fail)
    assert errors(made) == [(None, None)]


def test_no_breakpoint_is_left(made: Script) -> None:
    made.begin()
    made.main.dlopen("libmissing.so")
    made.tracer.stop()
    assert made.target.handlers == {}
    assert errors(made) == [MISSING]


# -- where no breakpoint can be -------------------------------------------------------------------------------


@pytest.fixture
def storing(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Return a process in whose ld.so no breakpoint can be, and whose libc has a place for errors."""
    made = script(in_rtld=False)
    made.process.dlerror_result = 0
    made.process.started_with = [b"./called-so"], []
    pointers = {MAIN: made.process.tls}
    monkeypatch.setattr("dlwhy.common.linux.loader.threads.find_thread_pointers", lambda *_: pointers)
    return made


def store(made: Script, name: str, text: str, code: int = 0, *, returned: bool = False) -> int:
    """Keep an error as libc does; gives what dlopen returns."""
    subject, message = (made.target.string(each.encode()) for each in (name, text))
    head = code.to_bytes(4, "little") + bytes([0, returned, 0, 0])
    words = b"".join(each.to_bytes(8, "little") for each in (0xDEAD if returned else subject, message if text else 0))
    made.process.dlerror_result = made.target.string(head + words)
    return 0


def test_what_libc_keeps_is_the_error(storing: Script) -> None:
    storing.begin()
    storing.main.dlopen("libmissing.so", work=lambda: store(storing, "libmissing.so", NOT_FOUND, 2))
    storing.main.dlopen("liba.so")
    assert errors(storing) == [MISSING, (None, None)]


def test_what_dlerror_has_been_asked_for_is_whole(storing: Script) -> None:
    storing.begin()
    text = "libmissing.so: ist nicht da: Datei oder Verzeichnis nicht gefunden"
    storing.main.dlopen("libmissing.so", work=lambda: store(storing, "", text, 2, returned=True))
    assert errors(storing) == [(text, 2)]


@pytest.mark.parametrize("name", ["/usr/lib: odd/libx.so", "main", "./called-so", "<main program>", ""])
@pytest.mark.parametrize("returned", [False, True])
def test_what_names_something_that_is_loaded_is_of_a_later_dlsym(name: str, returned: bool, storing: Script) -> None:
    storing.known["libx.so"].path = "/usr/lib: odd/libx.so"
    storing.main.dlopen("libx.so")
    storing.begin()
    text = "unsupported dlinfo request" if not name else "undefined symbol: nowhere"
    text = f"{name}: {text}" if returned and name else text
    storing.main.dlopen("libmissing.so", work=lambda: store(storing, name, text, returned=returned))
    assert errors(storing) == [(None, None)]


@pytest.mark.parametrize("result", [0, (1 << 64) - 1, 0x1000, "empty"])
def test_where_libc_keeps_nothing_the_error_is_not_known(result: int | str, storing: Script) -> None:
    storing.begin()

    def fail() -> int:
        if isinstance(result, str):
            return store(storing, "libmissing.so", "")
        storing.process.dlerror_result = result
        return 0

    storing.main.dlopen("libmissing.so", work=fail)
    assert errors(storing) == [(None, None)]


def test_an_error_that_cannot_be_told_from_a_dlsyms_is_not_known(
    storing: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> str:
        raise FaultError(0x1000, 8)

    monkeypatch.setattr("dlwhy.common.linux.trace.failures._argv0", fail)
    storing.begin()
    storing.main.dlopen("libmissing.so", work=lambda: store(storing, "libmissing.so", NOT_FOUND, 2))
    assert errors(storing) == [(None, None)]


def test_an_error_is_not_known_if_the_libraries_are_not(storing: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    storing.begin()
    monkeypatch.setattr(Graph, "complete", property(lambda _: False))
    storing.main.dlopen("libmissing.so", work=lambda: store(storing, "libmissing.so", NOT_FOUND, 2))
    assert set(errors(storing)) == {(None, None)}


def test_what_libc_opens_for_itself_it_does_not_keep(storing: Script) -> None:
    storing.begin()
    store(storing, "libother.so", NOT_FOUND, 2)
    storing.main.dlopen("libmissing.so", by_libc=True, work=lambda: 0)
    storing.main.dlopen("liba.so")
    assert errors(storing)[0] == (None, None)


def test_a_thread_that_is_in_no_list(storing: Script) -> None:
    storing.begin()
    other = storing.thread(4712)
    other.dlopen("libmissing.so", work=lambda: store(storing, "libmissing.so", NOT_FOUND, 2))
    assert errors(storing) == [(None, None)]


def test_where_there_is_no_place_for_a_breakpoint_none_is_set() -> None:
    made = script(in_rtld=False)
    made.begin()
    rtld = made.library("ld.so")
    base = made.process.base(rtld)
    assert not [address for address in made.target.handlers if base <= address < base + 0x5000]


@pytest.mark.parametrize("version", [(2, 26), None])
def test_registers_hold_the_arguments_of_i386_before_2_27(version: tuple[int, int] | None) -> None:
    rtld = cast(ElfImage, SimpleNamespace(memory=Memory(FakeTarget({}, I386))))
    assert find_raisers(None, rtld, version, in_rtld=True) == {}
