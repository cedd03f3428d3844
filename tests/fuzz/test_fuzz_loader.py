"""Does any damage to the loader's memory, however random, end in an answer or an error, in bounded time?"""

from __future__ import annotations

import struct

from dlwhy.tests.fuzz.examples import examples
from dlwhy.tests.synth.damage import ODD_WORDS, Patient, contradictions, decisive_ranges, examine
from hypothesis import given
from hypothesis import strategies as st


@examples(150)
@given(data=st.data())
def test_random_damage(patient: Patient, data: st.DataObject) -> None:
    patient.target.heal()
    ranges = list(decisive_ranges(patient))
    known = sorted(patient.graph.by_address)
    for _ in range(data.draw(st.integers(1, 5), "places")):
        start, size = data.draw(st.sampled_from(ranges), "range")
        kind = data.draw(st.sampled_from(["bit", "byte", "word", "map", "hole"]), "kind")
        if kind == "bit":
            place = start + data.draw(st.integers(0, size - 1), "offset")
            old = patient.target.original(place, 1)[0]
            patient.target.overwrite(place, bytes([old ^ 1 << data.draw(st.integers(0, 7), "bit")]))
        elif kind == "byte":
            place = start + data.draw(st.integers(0, size - 1), "offset")
            patient.target.overwrite(place, data.draw(st.binary(min_size=1, max_size=8), "bytes"))
        elif kind == "hole":
            patient.target.forget(start, size)
        else:
            place = start + 8 * data.draw(st.integers(0, size // 8 - 1), "word")
            word = data.draw(st.sampled_from(known if kind == "map" else ODD_WORDS), "value")
            patient.target.overwrite(place, struct.pack("<Q", word))
    examine(patient)


@examples(150)
@given(data=st.data())
def test_broken_structure_makes_no_wrong_verdict(patient: Patient, data: st.DataObject) -> None:
    """Holes, and pointers to nowhere or to another library: what is said then is as before, or not known."""
    patient.target.heal()
    ranges = list(decisive_ranges(patient))
    known = sorted(patient.graph.by_address)
    layout = patient.layouts.require("link_map").fields
    wild = [word for word in ODD_WORDS if word]  # a null pointer is a list's end, and says nothing wrong
    values = {"l_next": [*ODD_WORDS, *known], "l_prev": [*ODD_WORDS, *known], "l_initfini": [*wild, *known]}
    values.update(l_reldeps=wild, l_name=[*ODD_WORDS, *known], l_ld=[*ODD_WORDS, *known])
    for _ in range(data.draw(st.integers(1, 4), "places")):
        if data.draw(st.booleans(), "hole"):
            start, size = data.draw(st.sampled_from(ranges), "range")
            offset = data.draw(st.integers(0, size - 1), "offset")
            patient.target.forget(start + offset, data.draw(st.integers(1, size - offset), "size"))
        else:
            address = data.draw(st.sampled_from(known), "map")
            member = data.draw(st.sampled_from(sorted(values)), "member")
            word = data.draw(st.sampled_from(values[member]), "value")
            patient.target.overwrite(address + layout[member].offset, struct.pack("<Q", word))
    assert contradictions(patient.baseline, examine(patient)) == []
