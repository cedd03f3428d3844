"""Do damaged minidumps, and damaged memory of the loader, end in an answer or a DlwhyError, in bounded time?"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dlwhy.common.commands.dllgone.text import dll_gone_view
from dlwhy.common.commands.dllplan.text import dll_plan_view
from dlwhy.common.commands.dllstate.text import dll_state_view
from dlwhy.common.errors import DlwhyError, NotFoundError
from dlwhy.common.render.text import render
from dlwhy.common.target import Target
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.gone import find_gone
from dlwhy.common.windows.plan import plan_free
from dlwhy.common.windows.state import explain_dlls
from dlwhy.tests.fuzz.damages import DAMAGE, damaged
from dlwhy.tests.fuzz.examples import examples
from dlwhy.tests.synth.minidump import WIN7, WIN10, WINE, Form, Process, Unloaded
from dlwhy.tests.synth.windows import form_id, process, story
from hypothesis import given
from hypothesis import strategies as st

LIMIT_SECONDS = 10.0


def number(text: str) -> int:
    raise NotFoundError(text)


QUESTIONS: tuple[Callable[[Target], object], ...] = (
    lambda target: dll_state_view(explain_dlls(target), verbose=True),
    lambda target: dll_plan_view(plan_free(target, "libA.dll", number, None), verbose=True),
    lambda target: dll_gone_view(find_gone(target, None), verbose=True),
    lambda target: dll_gone_view(find_gone(target, 0x5013_0042), verbose=False),
)


def ask(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    began = time.monotonic()
    for question in QUESTIONS:
        try:
            target = MinidumpTarget(str(path))
            render(question(target))  # type: ignore[arg-type]
        except DlwhyError:
            continue
    assert time.monotonic() - began < LIMIT_SECONDS


@functools.cache
def small(form: Form, wide: bool) -> bytes:
    return process(form, wide).dump(full=False, unloaded=[Unloaded("x.dll", 0x6100_0000)])


@examples(150)
@given(damage=DAMAGE, cut=st.floats(0, 1), form=st.sampled_from([WIN7, WIN10, WINE]), wide=st.booleans())
def test_damaged_minidump(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[float, bytes]], cut: float, form: Form, wide: bool
) -> None:
    data = damaged(small(form, wide), damage)
    ask(tmp_path_factory.getbasetemp() / "damaged.dmp", data[: int(len(data) * cut)] if cut < 0.3 else data)


@functools.cache
def structures(form: Form) -> tuple[bytes, tuple[int, ...]]:
    """Write a dump, and tell where in the file the words of the loader's structures are."""
    made = Process(story(form))
    data = made.dump()
    places = []
    for address, piece in made.memory.pieces:
        if address == 0x2A6_0000_0000:
            start = data.index(bytes(piece))
            places = [start + at for at in range(0, len(piece), 8) if any(piece[at : at + 8])]
    return data, tuple(places)


@examples(300)
@given(data=st.data())
@pytest.mark.parametrize("form", [WIN10, WINE], ids=form_id)
def test_damaged_pointers_and_counts(tmp_path_factory: pytest.TempPathFactory, form: Form, data: st.DataObject) -> None:
    whole, places = structures(form)
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.sampled_from(places))
        other = data.draw(st.sampled_from(places))
        changed[place : place + 8] = data.draw(
            st.sampled_from([whole[other : other + 8], b"\xff" * 8, bytes(8), b"\xff\xff\xff\xff\0\0\0\0"])
        )
    ask(tmp_path_factory.getbasetemp() / "damaged.dmp", bytes(changed))
