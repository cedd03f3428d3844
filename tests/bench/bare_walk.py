"""Walk the VADs of all processes by pykd alone, as a script that judges nothing would: the peer of dllshare.

Run by the Windows CPython of the lab: bare_walk.py DUMP.  Members come from the PDB, by pykd's own types.
"""

from __future__ import annotations

import sys

import pykd


def main(path: str) -> None:
    """Count the VADs and the mapped files."""
    pykd.initialize()
    pykd.loadDump(path)
    nt = pykd.module("nt")
    root = nt.type("_EPROCESS").fieldOffset("VadRoot")
    links = nt.type("_EPROCESS").fieldOffset("ActiveProcessLinks")
    vad, short, flags = (nt.type(name) for name in ("_MMVAD", "_MMVAD_SHORT", "_MMVAD_FLAGS"))
    bits = {name: member for name, member in flags.fields() if name in ("VadType", "PrivateMemory")}
    shifts = {name: (member.bitOffset(), (1 << member.bitWidth()) - 1) for name, member in bits.items()}
    in_flags, start, end = (short.fieldOffset(name) for name in ("u", "StartingVpn", "EndingVpn"))
    subsection = vad.fieldOffset("Subsection")
    area = nt.type("_SUBSECTION").fieldOffset("ControlArea")
    file = nt.type("_CONTROL_AREA").fieldOffset("FilePointer")
    name = nt.type("_FILE_OBJECT").fieldOffset("FileName")
    vads = 0
    names: dict[int, str] = {}
    head = nt.offset("PsActiveProcessHead")
    entry = pykd.ptrPtr(head)
    while entry != head:
        pending = [pykd.ptrPtr(entry - links + root)]
        while pending:
            node = pending.pop()
            if not node:
                continue
            pending += [pykd.ptrPtr(node), pykd.ptrPtr(node + 8)]
            vads += 1
            pykd.ptrDWord(node + start)
            pykd.ptrDWord(node + end)
            word = pykd.ptrDWord(node + in_flags)
            shift, mask = shifts["PrivateMemory"]
            if word >> shift & mask:
                continue
            pointer = pykd.ptrPtr(pykd.ptrPtr(pykd.ptrPtr(node + subsection) + area) + file) & ~15
            if pointer and pointer not in names:
                length = pykd.ptrWord(pointer + name) // 2
                try:
                    names[pointer] = pykd.loadWChars(pykd.ptrPtr(pointer + name + 8), length)
                except pykd.MemoryException:
                    names[pointer] = ""
        entry = pykd.ptrPtr(entry)
    print(vads, len(names))


if __name__ == "__main__":
    main(sys.argv[1])
