"""On which machine does a process run of which there is a minidump, too?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from dlwhy.tests.synth import minidump, ntdump
from dlwhy.tests.synth.ntlayout import windows

if TYPE_CHECKING:
    from dlwhy.tests.synth.ntimage import KernelImage

#: The kernel under each form of the loader, 64-bit and 32-bit.
VERSIONS = {"win7": "6.1.7601.17514", "win10": "10.0.19041.3570", "win11": "10.0.22631.2428"}
X86 = {"win7": "6.1.7601.17514", "win10": "10.0.19041.928"}
PID = 4712


def machine(made: minidump.Process, wow64: bool = False, image: Optional[KernelImage] = None) -> ntdump.Machine:
    """Put the process into a machine, and have another one be the current process."""
    name = made.loader.form.name
    wide = made.loader.wide
    layout = windows((VERSIONS if wide else X86)[name], "x86_64" if wide else "i386")
    found = ntdump.Machine(layout, image=image)
    found.current = found.process(2296, "other.exe")
    process = found.process(PID, "prog.exe", wow64=wow64)
    for address, piece in made.memory.pieces:
        process.write_user(address, bytes(piece))
    found.put(process.eprocess, "_EPROCESS", "Peb", made.peb)
    return found
