"""How is a process's memory damaged, and what may then be said of it?

A `Patient` knows where everything lies in an undamaged process; each damage overwrites or removes some of it.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Optional, Union

from dlwhy.common.commands.dlstate.document import state_document
from dlwhy.common.commands.dlstate.text import state_view
from dlwhy.common.errors import DlwhyError
from dlwhy.common.linux.elf.image import ElfImage
from dlwhy.common.linux.loader.find import find_loader_globals
from dlwhy.common.linux.loader.layout import choose_layouts
from dlwhy.common.linux.loader.maps import LinkMap
from dlwhy.common.linux.loader.rendezvous import find_rendezvous
from dlwhy.common.linux.model import Library, State
from dlwhy.common.linux.state.examine import explain
from dlwhy.common.memory import Memory
from dlwhy.common.render.json_parts import dump
from dlwhy.common.render.text import render
from dlwhy.tests.fakes import CoreTarget, snapshot
from dlwhy.tests.schema import VALIDATOR

#: An undamaged process is explained in some 0.02 s; this is what damage may make of it on a busy machine.
LIMIT_SECONDS = 20.0
#: Damage must not make us read the whole address space either.
LIMIT_BYTES = 256 << 20

PAGE = 4096
WILD = 0x0000_1234_5678_9000
NON_CANONICAL = 0xFFFF_FFFF_FFFF_FFF8
#: Pages that no process of ours has; damage puts its own structures there.
SCRATCH = 0x0000_0666_0000_0000

Answer = Union[State, DlwhyError]


def make_build_unknown(core: Path) -> None:
    """Give the loader in a core another build-id, one that no table has: the layouts go by its fingerprint then."""
    memory = Memory(snapshot(core))
    private = find_loader_globals(memory, find_rendezvous(memory))
    assert private is not None
    assert private.fingerprint.ld_build_id is not None
    build_id = bytes.fromhex(private.fingerprint.ld_build_id)
    content = core.read_bytes()
    assert build_id in content
    core.write_bytes(content.replace(build_id, build_id[::-1]))


class Patient:
    """A process that was explained once while it was well."""

    def __init__(self, core: Path) -> None:
        self.target: CoreTarget = snapshot(core)
        memory = Memory(self.target)
        self.baseline = explain(self.target)
        self.known: tuple[Library, ...] = ()
        self.start = find_rendezvous(memory)
        private = find_loader_globals(memory, self.start)
        assert private is not None
        self.private = private
        chosen = choose_layouts(memory, self.start, private)
        self.layouts = chosen.layouts
        self.graph = chosen.graph
        self.memory = memory

    def library(self, name: str) -> Library:
        """Find a library of the base namespace."""
        return next(each for each in self.baseline.libraries if each.name == name and each.namespace == 0)

    def map(self, name: str) -> LinkMap:
        """Find a library's map."""
        return self.graph.by_address[self.library(name).link_map]

    def member(self, name: str, member: str) -> int:
        """Give the address of a member of a library's map."""
        return self.library(name).link_map + self.layouts.require("link_map").fields[member].offset

    def set(self, name: str, member: str, value: int) -> None:
        """Overwrite a member; of a bit-field only its bits."""
        field = self.layouts.require("link_map").fields[member]
        address = self.member(name, member)
        if field.bit_count:
            old = self.memory.unsigned(address, 1)
            mask = (1 << field.bit_count) - 1 << field.bit_shift
            value = old & ~mask | value << field.bit_shift
        self.target.overwrite(address, value.to_bytes(field.size, "little"))

    def set_global(self, member: str, value: int) -> None:
        """Overwrite a member of _rtld_global."""
        field = self.layouts.require("rtld_global").fields[member]
        self.target.overwrite(self.private.rtld_global + field.offset, value.to_bytes(field.size, "little"))

    def set_namespace(self, number: int, member: str, value: int) -> None:
        """Overwrite a member of a namespace."""
        names = self.layouts.require("link_namespaces")
        first = self.layouts.require("rtld_global").fields["_dl_ns"].offset
        field = names.fields[member]
        address = self.private.rtld_global + first + number * names.size + field.offset
        self.target.overwrite(address, value.to_bytes(field.size, "little"))

    def namespace(self, number: int, member: str) -> int:
        """Read a word of a namespace."""
        names = self.layouts.require("link_namespaces")
        first = self.layouts.require("rtld_global").fields["_dl_ns"].offset
        return self.memory.pointer(self.private.rtld_global + first + number * names.size + names.fields[member].offset)

    def scratch(self, *words: int, size: int = 4 * PAGE) -> int:
        """Put words into new memory, zeros behind them."""
        data = struct.pack(f"<{len(words)}Q", *words)
        self.target.overwrite(SCRATCH, data.ljust(max(size, -(-len(data) // PAGE) * PAGE), b"\0"))
        return SCRATCH

    def image(self, name: str) -> ElfImage:
        """Give a library's image."""
        start = self.library(name).start
        assert start is not None
        return ElfImage.at(self.memory, start)

    def set_dynamic(self, name: str, tag: int, value: int) -> None:
        """Overwrite the value of an entry of a dynamic section."""
        image = self.image(name)
        header = next(each for each in image.headers if each.type == 2)
        for index, (found, _) in enumerate(image.dynamic_entries):
            if found == tag:
                self.target.overwrite(image.address(header.vaddr) + 16 * index + 8, struct.pack("<Q", value))
                return
        raise AssertionError(f"{name} has no dynamic entry {tag:#x}")

    def libc_blocks(self) -> Iterator[range]:
        """Yield the addresses of the words of libc's thread-local block of each thread."""
        libc = self.map("libc.so.6")
        size, offset = libc.field("l_tls_blocksize"), libc.field("l_tls_offset")
        assert size
        assert offset
        for thread in self.target.threads():
            block = self.target.registers(thread)["thread_pointer"] - offset
            yield range(block, block + size, 8)

    def destructor_nodes(self) -> Iterator[tuple[int, int]]:
        """Yield the address of each list's head in libc's thread-local block, and of the first node."""
        for block in self.libc_blocks():
            for place in block:
                node = self.memory.pointer(place)
                raw = self.memory.try_read(node, 32)
                if raw is not None and struct.unpack("<4Q", raw)[2] in self.graph.by_address:
                    yield place, node


class Treatment(NamedTuple):
    """One kind of damage."""

    name: str
    apply: Callable[[Patient], None]


def examine(patient: Patient, target: Optional[CoreTarget] = None) -> Answer:
    """Explain a target, and put the answer into words and JSON; in bounded time, and with no other exception."""
    target = target or patient.target
    target.reads = target.bytes_read = 0
    began = time.process_time()
    answer: Answer
    try:
        answer = explain(target)
    except DlwhyError as error:
        answer = error
    else:
        show(patient, answer)
        brief = explain(target, brief=True)
        assert render(state_view(brief, verbose=False)) == render(state_view(answer, verbose=False))
    seconds = time.process_time() - began
    assert seconds < LIMIT_SECONDS, f"it took {seconds:.1f} s"
    assert target.bytes_read < LIMIT_BYTES, f"{target.bytes_read} bytes were read"
    return answer


def show(patient: Patient, state: State) -> None:
    """Put an answer into words and JSON: whatever was found must be fit to be shown."""
    texts = [render(state_view(state, verbose=False))]
    new = tuple(library for library in state.libraries if library not in patient.known)
    for library in new:
        texts.append(render(state_view(state._replace(libraries=(library,), asked=library.name), verbose=True)))
    assert "\x1b" not in "".join(texts)
    VALIDATOR.validate(json.loads(dump(state_document("dlstate", state._replace(libraries=new)))))
    patient.known += new


def contradictions(baseline: State, answer: Answer) -> list[str]:
    """List what a damaged process's answer says that is not so.

    A verdict is the undamaged one, or not known; a library may be missing if a problem is reported.
    """
    if isinstance(answer, DlwhyError):
        return []
    before = {library.link_map: library for library in baseline.libraries}
    after = {library.link_map: library for library in answer.libraries}
    wrong = [f"made up: {library.name}" for address, library in after.items() if address not in before]
    for address, library in before.items():
        seen: Optional[Library] = after.get(address)
        if seen is None:
            if not answer.problems:
                wrong.append(f"{library.name} is missing, and no problem is reported")
        elif seen.held is not None and seen.held != library.held:
            wrong.append(f"{library.name} was {library.held}, is {seen.held}")
    return wrong


# What a pointer or a counter turns into more often than chance has it.
ODD_WORDS = (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 20, 1 << 40, 1 << 63, WILD, NON_CANONICAL)


def decisive_ranges(patient: Patient) -> Iterator[tuple[int, int]]:
    """Yield the ranges that decide: maps, their lists and images, the loader's globals, the destructors' lists."""
    patient.memory.renew_allowance()  # it lives for one command, and here for thousands of examples
    for link_map in patient.graph.by_address.values():
        yield link_map.address, len(link_map.raw)
        for address in (link_map.l_initfini, link_map.l_reldeps, link_map.l_name):
            if address:
                yield address, 64
        yield link_map.l_ld, 0x200
        yield link_map.field("l_map_start") or link_map.l_ld, 0x300
    yield patient.private.rtld_global, patient.layouts.require("rtld_global").size
    yield patient.start.r_debug, 40
    yield patient.namespace(0, "_ns_unique_sym_table.entries"), 32 * 31
    for place, node in patient.destructor_nodes():
        yield place, 8
        yield node, 32
