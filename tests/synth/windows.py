"""Which processes of Windows do the tests ask about?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

from dlwhy.tests.synth.minidump import (
    EXE,
    KERNEL32,
    WIN7,
    WIN10,
    WIN11,
    WIN81,
    WINE,
    XP,
    Form,
    Loader,
    Module,
    Process,
    Unloaded,
)

#: How many DLLs a large process has.
MODULES = 500
#: Every form in every word size that it has.
FORMS = [(XP, False), *((form, wide) for form in (WIN7, WIN81, WIN10, WIN11, WINE) for wide in (True, False))]


def form_id(value: object) -> Optional[str]:
    """Name a form in the name of a test."""
    return value.name if isinstance(value, Form) else {True: "x64", False: "x86"}.get(value)  # type: ignore[call-overload]


def story(form: Form = WIN10, wide: bool = True) -> Loader:
    """Load a DLL for nearly every reason to stay."""
    loader = Loader(form, wide)
    loader.define(
        Module("libA.dll", ["libB.dll", "libC.dll", KERNEL32], functions=["FreeLibrary"]),
        Module("libB.dll", ["libC.dll"]),
        Module("libC.dll"),
        Module("cx.dll", ["cy.dll"]),
        Module("cy.dll", ["cx.dll", "libC.dll"]),
        Module("static.dll", ["ucrt.dll"]),
        Module("ucrt.dll"),
        Module("pinned.dll", ["pindep.dll"]),
        Module("pindep.dll"),
    )
    loader.ring = [Unloaded(f"old{number}.dll", 0x5000_0000 + 0x10000 * number) for number in range(20)]
    loader.start(Module(EXE, ["static.dll", KERNEL32]))
    loader.load("libA.dll", 3)
    loader.load("libC.dll")
    loader.load("cx.dll")
    loader.load("pinned.dll")
    loader.pin("pinned.dll")
    return loader


def process(form: Form = WIN10, wide: bool = True) -> Process:
    """Lay the story's process out."""
    return Process(story(form, wide))


def write(folder: Path, content: bytes, name: str = "x.dmp") -> Path:
    """Write a file."""
    path = folder / name
    path.write_bytes(content)
    return path


def real_dumps(name: str) -> list[Path]:
    """Give a real dump of the folder ``shared/data/minidumps`` beside the checkout, or above it, where there is one."""
    folders = [Path(os.environ["DLWHY_SHARED"])] if "DLWHY_SHARED" in os.environ else []
    folders += [parent / "shared" for parent in Path(__file__).resolve().parents]
    found = [folder / "data" / "minidumps" / name for folder in folders]
    return [path for path in found if path.is_file()][:1]


def large(form: Form, modules: int = MODULES, pieces: int = 1600) -> bytes:
    """Write a dump of a process with DLLs that import one another, and with pieces of 64 KiB of other memory."""
    loader = Loader(form)
    loader.ring = []
    for number in range(modules - 3):
        later = range(number + 1, min(number + 5, modules - 3))
        loader.define(Module(f"d{number}.dll", [f"d{other}.dll" for other in later]))
    loader.start(Module(EXE, [KERNEL32]))
    loader.load("d0.dll")
    made = Process(loader)
    for number in range(pieces):
        made.memory.add(0x1_0000_0000 + 0x20000 * number, 0x10000)
    return made.dump()
