"""Is a running process read again when anything that its answer rests on has changed meanwhile?"""

from __future__ import annotations

from pathlib import Path

import pytest
from dlwhy.common.linux.loader.find import find_loader_globals
from dlwhy.common.linux.loader.layout import choose_layouts
from dlwhy.common.linux.loader.rendezvous import find_rendezvous
from dlwhy.common.linux.state.activity import LoaderActivity, find_activity
from dlwhy.common.linux.state.examine import examine, explain
from dlwhy.common.linux.state.process import GlibcProcess
from dlwhy.common.memory import Memory
from dlwhy.common.target import Capability
from dlwhy.tests.fakes import CoreTarget, snapshot


class Changing:
    """Where each thing lies that can change, and what was there before."""

    def __init__(self, target: CoreTarget) -> None:
        memory = Memory(target)
        start = find_rendezvous(memory)
        private = find_loader_globals(memory, start)
        assert private is not None
        chosen = choose_layouts(memory, start, private)
        outer = chosen.layouts.require("rtld_global").fields
        inner = chosen.layouts.require("link_namespaces").fields
        fields = chosen.layouts.require("link_map").fields
        maps = chosen.graph.namespaces[0].maps
        (opened,) = (each for each in maps if each.name.endswith("/libplain.so"))
        base = chosen.graph.namespaces[0].address
        count = memory.unsigned(base + inner["_ns_nloaded"].offset, 4)
        self.places: dict[str, tuple[int, bytes]] = {
            "number of libraries": (base + inner["_ns_nloaded"].offset, (count + 1).to_bytes(4, "little")),
            "last library": (maps[-2].address + fields["l_next"].offset, bytes(8)),
            "open count": (opened.address + fields["l_direct_opencount"].offset, (7).to_bytes(4, "little")),
            "dependency": (opened.l_initfini + 8, maps[-1].address.to_bytes(8, "little")),
            "number of namespaces": (private.rtld_global + outer["_dl_nns"].offset, (1).to_bytes(8, "little")),
            "lock": (private.rtld_global + outer["_dl_load_lock"].offset, b"\1\0\0\0\1\0\0\0\7\0\0\0"),
        }


@pytest.mark.parametrize(
    "what", ["number of libraries", "last library", "open count", "dependency", "number of namespaces", "lock"]
)
def test_what_changes_is_read_again(rich_core: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = snapshot(rich_core)
    still = explain(target)
    address, before = Changing(target).places[what]
    assert target.read(address, len(before)) != before
    target.heal()
    target.capabilities = Capability.RUNNING
    target.overwrite(address, before)
    read = target.read

    def read_once(start: int, size: int) -> bytes:
        data = read(start, size)
        if start <= address < start + size:
            target.heal()
        return data

    monkeypatch.setattr(target, "read", read_once)
    moving = explain(target)
    assert moving.libraries == still.libraries
    assert moving.problems == still.problems


def refuse(*_: object) -> None:
    raise AssertionError("this is no musl")


def test_lists_that_have_gone_are_moving(rich_core: Path) -> None:
    target = snapshot(rich_core)
    examined: list[LoaderActivity] = []

    def judge(process: GlibcProcess) -> None:
        examined.append(find_activity(process))
        for namespace in process.graph.namespaces:
            target.forget(namespace.maps[-1].address, 8)
        examined.append(find_activity(process))

    examine(target, judge, refuse)
    assert examined == [LoaderActivity.STILL, LoaderActivity.MOVING]
