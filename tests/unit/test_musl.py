"""Is musl recognised, and is it said that it never unloads, and what it knows of each library?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import pytest
from dlwhy.common.errors import NotFoundError, UnsupportedError
from dlwhy.common.linux.model import HoldKind, State
from dlwhy.common.linux.model import Library as Verdict
from dlwhy.common.linux.plan import plan_all, plan_close
from dlwhy.common.linux.state.examine import explain, explain_chosen
from dlwhy.common.linux.trace.stops import TraceOptions
from dlwhy.common.linux.trace.tracer import begin
from dlwhy.common.model import Outcome, Platform
from dlwhy.tests.fakes import FakeTarget
from dlwhy.tests.support.live import Breakpoints
from dlwhy.tests.synth.glibc import Library
from dlwhy.tests.synth.musl import RTLD, MuslProcess

VDSO = "linux-vdso.so.1"


def process(*, vdso: Optional[str] = VDSO) -> MuslProcess:
    libraries = [Library("libneeded.so", type=1, init_called=True), Library("libopened.so", init_called=True)]
    return MuslProcess([*libraries, *([Library(vdso, type=1)] if vdso else [])], vdso=vdso)


def holds(state: State) -> dict[str, tuple[str, Optional[str]]]:
    """Return why each library stays."""
    return {each.name: (each.holds[0].kind.value, each.holds[0].origin) for each in state.libraries}


def test_every_library_stays_and_why() -> None:
    made = process()
    state = explain(made.target())
    assert (state.loader.kind, state.loader.version, state.problems) == ("musl", None, ())
    assert holds(state) == {
        "main": ("main-program", None),
        RTLD: ("startup", "rtld"),
        "libneeded.so": ("startup", "needed"),
        "libopened.so": ("never-unloads", None),
        VDSO: ("startup", "vdso"),
    }
    assert all(each.held and len(each.holds) == 1 and each.namespace == 0 for each in state.libraries)


def test_a_library_without_a_name_is_called_by_what_it_is() -> None:
    made = process()
    target = made.target()
    target.forget(made.map_of("main") + 0x800, 1)
    state = explain(target)
    assert [each.name for each in state.libraries][::2] == ["the main program", "libneeded.so", VDSO]
    assert state.libraries[0].path is None


def test_libraries_are_chosen() -> None:
    target = process().target()
    state = explain_chosen(target, lambda libraries: [each for each in libraries if each.name == "libopened.so"])
    assert [library.name for library in state.libraries] == ["libopened.so"]

    def choose(_: Sequence[Verdict]) -> Sequence[Verdict]:
        raise NotFoundError("no loaded library matches 'x'")

    with pytest.raises(NotFoundError, match="no loaded library"):
        explain_chosen(target, choose)


def test_what_musl_knows_of_each_library() -> None:
    made = process()
    by_name = {each.name: each for each in explain(made.target()).libraries}
    opened = by_name["libopened.so"]
    assert opened.fields == {"runtime_loaded": 1, "relocated": 1, "constructed": 1}
    assert by_name["libneeded.so"].fields["runtime_loaded"] == 0
    assert by_name[RTLD].fields["constructed"] == 0
    assert by_name[VDSO].fields == {}
    base = made.base(made.library("libopened.so"))
    assert (opened.base, opened.start, opened.end) == (base, base, base + 0x5000)
    assert (opened.path, opened.soname, opened.link_map) == (
        "/lib/libopened.so",
        "libopened.so",
        made.map_of("libopened.so"),
    )
    assert opened.build_id == b"libopened.so........".hex()
    assert by_name["main"].path == "/lib/main"


def test_another_musl_lays_its_structure_out_in_another_way() -> None:
    made = process(vdso=None)
    for offset, value in ((56, b"\x38\x01"), (168, b"\x02"), (136, b"\xff" * 8)):
        target = made.target()
        target.overwrite(made.map_of("libopened.so") + offset, value)
        state = explain(target)
        assert [(each.where, each.message) for each in state.problems] == [
            ("libopened.so", "its struct dso is laid out unlike musl 1.2's: fields not known")
        ]
        # By then nothing says that it was not opened.
        assert holds(state)["libopened.so"] == ("never-unloads", None)


def test_a_processor_whose_layout_is_not_known() -> None:
    made = process(vdso=None)
    target = made.target()
    target.platform = Platform("riscv64", 8, "little")
    state = explain(target)
    assert [each.fields for each in state.libraries] == [{}] * 4
    assert len(state.problems) == 4
    assert holds(state)["libneeded.so"] == ("never-unloads", None)


def test_a_structure_that_cannot_be_read() -> None:
    made = process(vdso=None)
    target = made.target()
    target.forget(made.map_of("libopened.so") + 100, 8)
    state = explain(target)
    assert [each.where for each in state.problems] == ["libopened.so"]


def test_an_image_that_cannot_be_read() -> None:
    made = process(vdso=None)
    target = made.target()
    target.forget(made.base(made.library("libopened.so")), 64)
    opened = explain(target).libraries[-1]
    assert (opened.start, opened.soname, opened.build_id) == (made.base(made.library("libopened.so")), None, None)
    assert (opened.end or 0) > (opened.start or 0), "by its struct dso"
    assert opened.held


def test_musl_is_known_by_the_name_of_its_loader_too() -> None:
    made = process(vdso=None)
    target = made.target()
    # Its own image is gone.
    target.forget(made.base(made.library(RTLD)), 0x40)
    assert explain(target).loader.kind == "musl"
    target.overwrite(made.base(made.libraries[0]) + 0xC00, b"/lib/other.so\0" + bytes(20))
    with pytest.raises(UnsupportedError, match="neither glibc's nor musl's"):
        explain(target)


def test_no_close_unloads_anything() -> None:
    target = process().target()
    (found,) = plan_close(target, "libopened.so", int, None).plans
    assert (found.outcome, found.unloads, found.open_count, found.close_count) == (Outcome.KEEPS, (), None, 1)
    assert found.remedy is not None
    assert found.remedy.blocker == found.library
    assert [hold.kind for hold in found.library.holds] == [HoldKind.NEVER_UNLOADS]
    assert plan_all(target).plans == ()
    with pytest.raises(NotFoundError, match="no loaded library matches"):
        plan_close(target, "libother.so", missing)


def missing(text: str) -> int:
    raise NotFoundError(text)


def test_there_is_no_close_to_trace() -> None:
    with pytest.raises(UnsupportedError, match="musl never unloads, by design"):
        begin(Live(), TraceOptions(), print, print)


class Live(Breakpoints, FakeTarget):
    """A process of musl that runs."""

    keeps_breakpoints = True

    def __init__(self) -> None:
        made = process()
        Breakpoints.__init__(self)
        FakeTarget.__init__(self, made.segments(), auxv=made.target().auxv())

    def stack_pointer(self, lwp: int) -> Optional[int]:
        return None
