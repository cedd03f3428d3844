"""Does damage to the loader make a close seem to unload what it does not, or end in anything but an error?"""

from __future__ import annotations

import json
import struct
import time
from typing import Optional

from dlwhy.common.commands.dlplan.document import plan_document
from dlwhy.common.commands.dlplan.text import plan_view
from dlwhy.common.errors import DlwhyError, NotFoundError
from dlwhy.common.linux.plan import plan_all, plan_close
from dlwhy.common.linux.plan_model import Plans
from dlwhy.common.render.json_parts import dump
from dlwhy.common.render.text import render
from dlwhy.tests.fuzz.examples import examples
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.synth.damage import LIMIT_SECONDS, ODD_WORDS, Patient, decisive_ranges
from hypothesis import given
from hypothesis import strategies as st


def evaluate(text: str) -> int:
    """Take a number."""
    try:
        return int(text, 0)
    except ValueError as error:
        raise NotFoundError(text) from error


def predict(patient: Patient, handle: Optional[int] = None) -> Optional[Plans]:
    """Predict one close or all, and show it; in bounded time, and with no other exception."""
    began = time.process_time()
    try:
        plans = plan_all(patient.target) if handle is None else plan_close(patient.target, f"{handle:#x}", evaluate)
    except DlwhyError:
        return None
    assert "\x1b" not in render(plan_view(plans, verbose=True))
    VALIDATOR.validate(json.loads(dump(plan_document("dlplan", plans))))
    assert time.process_time() - began < LIMIT_SECONDS
    return plans


def unloaded(plans: Plans) -> dict[int, set[int]]:
    """Give what each handle's close unloads."""
    return {plan.library.link_map: {each.link_map for each in plan.unloads} for plan in plans.plans}


@examples(100)
@given(data=st.data())
def test_random_damage(patient: Patient, data: st.DataObject) -> None:
    patient.target.heal()
    ranges = list(decisive_ranges(patient))
    known = sorted(patient.graph.by_address)
    handle = data.draw(st.sampled_from(known), "handle")
    for _ in range(data.draw(st.integers(1, 5), "places")):
        start, size = data.draw(st.sampled_from(ranges), "range")
        if data.draw(st.booleans(), "hole"):
            patient.target.forget(start, size)
        else:
            place = start + 8 * data.draw(st.integers(0, size // 8 - 1), "word")
            word = data.draw(st.sampled_from([*ODD_WORDS, *known]), "value")
            patient.target.overwrite(place, struct.pack("<Q", word))
    predict(patient)
    predict(patient, handle)


@examples(100)
@given(data=st.data())
def test_holes_make_no_close_unload_more(patient: Patient, data: st.DataObject) -> None:
    patient.target.heal()
    whole = predict(patient)
    assert whole is not None
    for _ in range(data.draw(st.integers(1, 4), "places")):
        start, size = data.draw(st.sampled_from(list(decisive_ranges(patient))), "range")
        offset = data.draw(st.integers(0, size - 1), "offset")
        patient.target.forget(start + offset, data.draw(st.integers(1, size - offset), "size"))
    holed = predict(patient)
    if holed is not None:
        before = unloaded(whole)
        for handle, gone in unloaded(holed).items():
            assert gone <= before[handle]
