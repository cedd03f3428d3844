r"""Machines with the traps that a reader of sections can fall into; `python35` is the one of the README's transcript.

What is true of each file is in TRUTH, by the file's base name; the tests compare every host's answer with it.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from .ntdump import Machine
from .ntimage import KernelImage
from .ntlayout import Windows

PYTHON35 = "\\Program Files\\Python35\\python35.dll"


class Truth(NamedTuple):
    """What is true of a file: who maps it (pid and as what), who has a handle open, and what can be done."""

    mapped: tuple[tuple[int, str], ...]
    openers: tuple[int, ...]
    rename: str
    delete: str
    overwrite: str
    truncate: str
    fast_ref: Optional[int]
    enforced: bool


TRUTH = {
    # An ordinary DLL: mapped by two as an image, by a third as data; its handle is closed, so its sharing is history.
    "python35.dll": Truth(((2296, "image"), (2408, "image"), (3120, "data")), (), "yes", "no", "no", "no", 3, False),
    # Opened without sharing deletes, and the handle is still open.
    "held.dll": Truth(((2296, "image"),), (2296,), "no", "no", "no", "no", 1, True),
    # The same sharing, but the handle is closed.
    "released.dll": Truth(((2296, "image"),), (), "yes", "no", "no", "no", 0, False),
    # The mapping objects to nothing; another open does, which only a handle table shows.
    "opened.dll": Truth(((2408, "image"),), (3120,), "no", "no", "no", "no", 7, False),
    # Somebody has it open for its attributes alone: that binds nobody.
    "attributes.dll": Truth(((2408, "image"),), (3120,), "yes", "no", "no", "no", 1, False),
    # Deleted already, but not gone.
    "pending.dll": Truth(((2296, "image"),), (), "no", "no", "no", "no", 1, False),
    # Data only, not writable, and writable.
    "locale.nls": Truth(((2296, "data"), (2408, "data")), (), "probably", "no", "yes", "no", 2, False),
    "index.dat": Truth(((3120, "data"),), (), "probably", "no", "depends", "no", 1, False),
    # High addresses: VPNs of more than 32 bits on x64.
    "ntdll.dll": Truth(((2296, "image"), (2408, "image"), (3120, "image")), (), "yes", "no", "no", "no", 5, False),
}


def build(layout: Windows, *, pae: bool = True, image: Optional[KernelImage] = None) -> Machine:
    """Build the machine with all traps."""
    machine = Machine(layout, pae=pae, image=image)
    top_of_references = 15 if layout.pointer_size == 8 else 7
    python = machine.process(2296, "python.exe")
    pythonw = machine.process(2408, "pythonw.exe", wow64=layout.pointer_size == 8)
    exited = machine.process(2500, "gone.exe", exited=True)
    backup = machine.process(3120, "backup.exe")
    machine.current = python

    file = machine.file(PYTHON35)
    dll = file.image(file.open("R--", "r-d"), references=3)
    python.map(dll, 0x66FB0000, 0x67393000, commit=151)
    pythonw.map(dll, 0x66FB0000, 0x67393000, commit=149)
    machine.put(dll.control_area, "_CONTROL_AREA", "NumberOfUserReferences", 1)
    data = file.data(file.open("R--", "rwd"))
    backup.map(data, 0x1D50000, 0x2133000)

    held = machine.file("\\Temp\\held.dll")
    open_file = held.open("R--", "r--", closed=False)
    python.map(held.image(open_file, references=1), 0x10000000, 0x10008000)
    python.open(open_file)

    released = machine.file("\\Temp\\released.dll")
    python.map(released.image(released.open("R--", "r--"), references=0), 0x11000000, 0x11008000)

    opened = machine.file("\\Temp\\opened.dll")
    pythonw.map(opened.image(opened.open("R--", "r-d"), references=7), 0x12000000, 0x12010000)
    event = machine.event()
    for _ in range(600):  # so many handles that they take a second page of entries
        backup.open(event)
    backup.open(opened.open("R--", "r--", closed=False))

    attributes = machine.file("\\Temp\\attributes.dll")
    pythonw.map(attributes.image(attributes.open(), references=1), 0x12100000, 0x12110000)
    backup.open(attributes.open("---", "---", closed=False), 0x100080)

    pending = machine.file("\\Temp\\pending.dll")
    python.map(pending.image(pending.open("R--", "r-d", delete_pending=True), references=1), 0x13000000, 0x13004000)

    locale = machine.file("\\Windows\\System32\\locale.nls", where="transition")
    nls = locale.data(locale.open(), references=2)
    python.map(nls, 0x150000, 0x1B7000)
    pythonw.map(nls, 0x150000, 0x1B7000)

    index = machine.file("\\Users\\a\\index.dat")
    backup.map(
        index.data(index.open("RW-", "rwd"), references=1, writable=1), 0x2200000, 0x2240000, protection="READWRITE"
    )

    ntdll = machine.file("\\Windows\\System32\\ntdll.dll", where="prototype" if machine.entry_size == 8 else "resident")
    core = ntdll.image(ntdll.open("R--", "r-d"), references=min(5, top_of_references))
    high = 0x7FF812340000 if layout.pointer_size == 8 and layout.build > 9000 else 0x77000000
    for process in (python, pythonw, backup):
        process.map(core, high, high + 0x1F8000)

    paged = machine.file("\\Temp\\paged out.dll", where="pagefile")
    python.map(paged.image(paged.open(), references=top_of_references), 0x14000000, 0x14004000)

    python.map(machine.section(None, is_image=False), 0x7F000000, 0x7F010000, protection="READWRITE")
    for number in range(7):
        python.private(0x20000000 + number * 0x100000, 0x20000000 + number * 0x100000 + 0x10000)
    left = machine.file("\\Temp\\left.dll")
    exited.map(left.image(left.open()), 0x15000000, 0x15004000)
    return machine


def busy(
    layout: Windows,
    processes: int,
    vads: int,
    files: int = 300,
    handles: int = 60,
    image: Optional[KernelImage] = None,
) -> Machine:
    """Build a machine with many processes, each with so many VADs, half of them of files that others map too."""
    machine = Machine(layout, image=image)
    images = []
    for number in range(files):
        file = machine.file(f"\\Windows\\System32\\library{number}.dll")
        images.append(file.image(file.open(), references=number % 16))
    for number in range(processes):
        process = machine.process(1000 + 4 * number, f"proc{number}.exe")
        if number == 0:
            machine.current = process
        for index in range(vads):
            start = 0x10000000 + index * 0x200000
            if index % 2:
                process.private(start, start + 0x10000)
            else:
                process.map(images[(number * 7 + index) % files], start, start + 0x100000, commit=3)
        for index in range(handles):
            opened = images[(number + index) % files].file
            assert opened is not None
            process.open(opened)
    return machine
