"""Is no verdict changed silently by one member of one link map that is nonsense, and no other library's at all?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Union

import pytest
from dlwhy.common.errors import DlwhyError
from dlwhy.common.linux.loader.agreement import HeaderAgreement
from dlwhy.common.linux.loader.maps import MAX_COUNT, LinkMap
from dlwhy.common.linux.model import State
from dlwhy.common.linux.state.doubts import Doubts
from dlwhy.common.linux.state.examine import explain
from dlwhy.tests.synth.damage import NON_CANONICAL, WILD, Patient
from dlwhy.tests.synth.mutants import Mutant, Tally, Verdicts, compare, values

#: In a run of all tests every so many mutants are asked about.
STRIDE = 997

#: Members that no verdict rests on, and that nothing is compared with.
IDLE = frozenset(
    {
        *("l_libname", "l_ldnum", "l_versions", "l_nversions", "l_reserved", "l_visited", "l_map_done"),
        *(
            "l_phdr_allocated",
            "l_soname_added",
            "l_need_tls_init",
            "l_audit_any_plt",
            "l_contiguous",
            "l_free_initfini",
        ),
        *("l_origin", "l_text_end", "l_scope", "l_file_id.dev", "l_file_id.ino", "l_reldepsmax", "l_used", "l_flags"),
        *("l_tls_initimage", "l_tls_initimage_size", "l_tls_firstbyte_offset", "l_serial", "l_main_map"),
    }
)


def verdicts(state: State) -> Verdicts:
    """Give the verdict on each library."""
    return {each.link_map: (each.held, tuple(hold.kind.value for hold in each.holds)) for each in state.libraries}


def mutants(patient: Patient) -> Iterator[Mutant]:
    """Yield all mutants of all link maps."""
    addresses = sorted(patient.graph.by_address)
    for number, link_map in enumerate(patient.graph.by_address.values()):
        for member, field in patient.layouts.require("link_map").fields.items():
            if field.size > 8:
                continue
            address = link_map.address + field.offset
            raw = int.from_bytes(patient.target.original(address, field.size), "little")
            bits = field.bit_count or 8 * field.size
            mask = (1 << bits) - 1 << field.bit_shift
            others = (WILD, NON_CANONICAL, link_map.address, addresses[0], addresses[number // 2])
            for value in values((raw & mask) >> field.bit_shift, bits, others):
                content = raw & ~mask | value << field.bit_shift
                yield Mutant(link_map.address, member, address, value, content.to_bytes(field.size, "little"))


def is_sound(link_map: LinkMap, mutant: Mutant) -> bool:
    """Tell whether another process has this very state: a library opened again, or with RTLD_NODELETE, or not so."""
    if mutant.member == "l_direct_opencount":
        was_opened = bool(link_map.field("l_searchlist.r_list"))
        return was_opened and 0 < mutant.value <= MAX_COUNT
    if mutant.member == "l_nodelete_active":
        return mutant.value <= 1 and bool(link_map.l_direct_opencount or link_map.field("l_global"))
    return False


def judge(patient: Patient, chosen: Sequence[Mutant]) -> None:
    """Ask about mutants, one after another."""
    sound = explain(patient.target, brief=True)
    before = verdicts(sound)
    tally = Tally(before, IDLE)
    for mutant in chosen:
        patient.target.heal()
        patient.target.overwrite(mutant.address, mutant.content)
        link_map = patient.graph.by_address[mutant.owner]
        try:
            state = explain(patient.target, brief=True)
        except DlwhyError:
            tally.lose_all()
            continue
        outcome = compare(mutant.owner, before, verdicts(state), sound.problems, state.problems)
        tally.add(mutant, link_map.name, outcome, is_sound=is_sound(link_map, mutant))
    tally.check()


def test_a_sample_of_mutants(patient: Patient) -> None:
    judge(patient, list(mutants(patient))[::STRIDE])


def test_what_is_seen_at_once_is_what_a_thorough_look_finds(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all libraries are compared in a quick way; that one may never say more than the thorough one."""
    chosen = list(mutants(patient))[STRIDE // 2 :: STRIDE]

    def ask() -> Iterator[Union[State, str]]:
        for mutant in chosen:
            patient.target.heal()
            patient.target.overwrite(mutant.address, mutant.content)
            try:
                yield explain(patient.target, brief=True)
            except DlwhyError as error:
                yield str(error)

    quick = list(ask())
    monkeypatch.setattr(HeaderAgreement, "holds", lambda *_: False)
    monkeypatch.setattr(Doubts, "_is_plain", lambda *_: False)
    assert quick == list(ask())


@pytest.mark.matrix
@pytest.mark.parametrize("part", range(20))
def test_all_mutants(patient: Patient, part: int) -> None:
    judge(patient, list(mutants(patient))[part::20])
