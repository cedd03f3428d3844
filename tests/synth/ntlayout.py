"""NT's structures for the writer of kernel dumps: read from the shipped tables by code of its own, or made up.

A layout maps structure names to {"size", "fields"}; a field is [offset, size] or [offset, size, shift, bits].
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

DIRECTORY = Path(__file__).resolve().parent.parent.parent / "common" / "data" / "layouts"

Structs = dict[str, dict[str, Any]]


class Windows(NamedTuple):
    """A Windows as a dump shows it: build number, the PDB's GUID and age, and its structures."""

    name: str
    arch: str
    build: int
    guid: str
    age: int
    structs: Structs

    @property
    def pointer_size(self) -> int:
        return 8 if self.arch == "x86_64" else 4


def windows(version: str, arch: str = "x86_64") -> Windows:
    """Take a build from the tables; one whose GUID is not known gets one of its own."""
    document = json.loads((DIRECTORY / f"nt-{arch}.json").read_bytes())
    (build,) = (each for each in document["builds"] if each["build"] == version)
    structs = {name: document["structs"][name][number] for name, number in build["structs"].items()}
    number = int(version.split(".")[2])
    pdb = build.get("pdb", {"guid": f"{number:032X}", "age": 2})
    return Windows(version, arch, number, pdb["guid"], pdb["age"], copy.deepcopy(structs))


def never_shipped() -> Windows:
    """Make up a Windows that never was: every structure begins with a gap, and flags are elsewhere."""
    real = windows("10.0.19041.3570")
    structs = real.structs
    for number, (name, struct) in enumerate(sorted(structs.items())):
        if name in ("_LIST_ENTRY", "_UNICODE_STRING", "_EX_FAST_REF", "_KAPC_STATE", "_HANDLE_TABLE_ENTRY"):
            continue
        if name in ("_MMVAD_FLAGS", "_MMSECTION_FLAGS"):
            for field in struct["fields"].values():
                if len(field) == 4:
                    field[2] = 32 - field[2] - field[3]
            continue
        if name == "_MMVAD_FLAGS1":
            continue
        gap = 0x10 * (1 + number % 3)
        struct["size"] += gap
        for field in struct["fields"].values():
            field[0] += gap
    # What is nested grew too.
    for outer, member, inner in (
        ("_MMVAD", "Core", "_MMVAD_SHORT"),
        ("_EPROCESS", "Pcb", "_KPROCESS"),
        ("_MMVAD_SHORT", "VadNode", "_RTL_BALANCED_NODE"),
    ):
        grown = structs[inner]["size"] - structs[outer]["fields"][member][1]
        start = structs[outer]["fields"][member][0]
        structs[outer]["fields"][member][1] += grown
        structs[outer]["size"] += grown
        for name, field in structs[outer]["fields"].items():
            if name != member and field[0] >= start and not (outer == "_MMVAD_SHORT" and name in ("NextVad",)):
                field[0] += grown
    # VadNode is nested in Core, which grew once more by that.
    core = structs["_MMVAD"]["fields"]["Core"]
    grown = structs["_MMVAD_SHORT"]["size"] - core[1]
    core[1] += grown
    structs["_MMVAD"]["size"] += grown
    for name, field in structs["_MMVAD"]["fields"].items():
        if name != "Core":
            field[0] += grown
    return real._replace(name="never shipped", build=19999, guid="D1" * 16, structs=structs)
