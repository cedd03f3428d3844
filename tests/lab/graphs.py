"""How are DLLs made that import, load, forward and pin one another, and how is the driver run with them?"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlwhy.tests.lab.builds import compile_with_mingw
from dlwhy.tests.lab.windows import Lab, windows_path

ROOT = Path(__file__).resolve().parents[2]
DLLS = Path(__file__).resolve().parent / "dlls"
DLLTOOL = "x86_64-w64-mingw32-dlltool"
IMAGE_SCN_MEM_WRITE = 0x80000000


@dataclass(frozen=True)
class Dll:
    """A DLL to be made: what it imports, imports late, loads in DllMain, and to whose function it forwards one."""

    name: str
    imports: tuple[str, ...] = ()
    delayed: tuple[str, ...] = ()
    loads: tuple[str, ...] = ()
    frees_what_it_loads: bool = False
    forwards: str = ""


#: Every way in which one DLL can load, keep or free another.
STORY = (
    Dll("a", ("b", "c")),
    Dll("b", ("c",)),
    Dll("c"),
    Dll("x", ("y",)),
    Dll("y", ("x", "c")),
    Dll("pinned", ("below",)),
    Dll("below"),
    Dll("loader", loads=("c",), frees_what_it_loads=True),
    Dll("keeper", loads=("b",)),
    Dll("forwarder", forwards="c"),
    Dll("user", ("forwarder",)),
    Dll("late", delayed=("c",)),
)


@dataclass
class Run:
    """What the driver did: each FreeLibrary with the plan before it, and the log of all DllMains."""

    frees: list[dict[str, Any]] = field(default_factory=list)
    waits: list[dict[str, Any]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


def source(dll: Dll) -> str:
    """Write a DLL in C: DllMain logs, and loads what it shall."""
    imported = "".join(f"__declspec(dllimport) int from_{name}(void);\n" for name in (*dll.imports, *dll.delayed))
    uses = "".join(f"    sum += from_{name}();\n" for name in (*dll.imports, *dll.delayed))
    keeps = "".join(f"    (void *)from_{name},\n" for name in dll.imports)
    loads = "".join(f'        loaded = LoadLibraryA("{name}.dll");\n' for name in dll.loads)
    frees = "        FreeLibrary(loaded);\n" if dll.frees_what_it_loads else ""
    return f"""
#include <windows.h>
{imported}
{"static HMODULE loaded;" if dll.loads else ""}
__declspec(dllexport) void *kept[] = {{
{keeps}    0
}};
__declspec(dllexport) int from_{dll.name}(void) {{ return 1; }}
__declspec(dllexport) int touch(void)
{{
    int sum = 0;
{uses}    return sum;
}}
static void note(char what)
{{
    char line[] = "{dll.name} ?\\n";
    DWORD written;
    HANDLE file = CreateFileA("log.txt", FILE_APPEND_DATA, 3, 0, OPEN_ALWAYS, 0, 0);
    line[sizeof line - 3] = what;
    WriteFile(file, line, sizeof line - 1, &written, 0);
    CloseHandle(file);
}}
BOOL WINAPI DllMain(HINSTANCE self, DWORD reason, void *reserved)
{{
    (void)self;
    if (reason == DLL_PROCESS_ATTACH) {{
{loads}        note('+');
    }} else if (reason == DLL_PROCESS_DETACH) {{
        note(reserved ? '!' : '-');
{frees}    }}
    return TRUE;
}}
"""


def build(folder: Path, dlls: Sequence[Dll]) -> Path:
    """Make the DLLs and the driver; returns the driver."""
    delayed = {name for dll in dlls for name in dll.delayed}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        program = pool.submit(compile_with_mingw, folder / "prog.exe", [DLLS / "driver.c"])
        for _ in pool.map(lambda dll: _make_import_libraries(folder, dll, dll.name in delayed), dlls):
            pass
        for _ in pool.map(lambda dll: _make_dll(folder, dll), dlls):
            pass
        return program.result()


def _make_import_libraries(folder: Path, dll: Dll, is_delayed: bool) -> None:
    forwarded = f"forwarded={dll.forwards}.from_{dll.forwards}\n" if dll.forwards else ""
    exports = f"LIBRARY {dll.name}.dll\nEXPORTS\nfrom_{dll.name}\ntouch\nkept DATA\n{forwarded}"
    definition = folder / f"{dll.name}.def"
    definition.write_text(exports, encoding="ascii")
    for option, kind in (("-l", "a"), *((("-y", "delay.a"),) if is_delayed else ())):
        words = [DLLTOOL, "-d", str(definition), option, str(folder / f"lib{dll.name}.{kind}")]
        # It names its temporary files after its process, in the current folder.
        subprocess.run(words, check=True, cwd=folder)


def _make_dll(folder: Path, dll: Dll) -> None:
    path = folder / f"{dll.name}.c"
    path.write_text(source(dll), encoding="ascii")
    libraries = [str(folder / f"lib{name}.a") for name in dll.imports]
    libraries += [str(folder / f"lib{name}.delay.a") for name in dll.delayed]
    options = ["-nostdlib", "-Wl,-e,DllMain", str(folder / f"{dll.name}.def"), *libraries]
    options += ["-ldelayimp", "-lmingwex", "-lmsvcrt"] if dll.delayed else []
    made = folder / f"{dll.name}.dll"
    compile_with_mingw(made, [path], [*options, "-lkernel32"])
    if dll.delayed:
        _make_imports_writable(made)


def _make_imports_writable(path: Path) -> None:
    """Let MinGW's delay loading write into .idata, which binutils since 2.43 marks as read-only."""
    content = bytearray(path.read_bytes())
    (headers,) = struct.unpack_from("<I", content, 0x3C)
    count, optional = struct.unpack_from("<H12xH", content, headers + 6)
    first = headers + 24 + optional
    for place in range(first, first + 40 * count, 40):
        if content[place : place + 8] == b".idata\0\0":
            content[place + 39] |= IMAGE_SCN_MEM_WRITE >> 24
    path.write_bytes(content)


def run(lab: Lab, folder: Path, script: Sequence[str]) -> Run:
    """Run the driver under the engine; a script that waits leaves dumps in the folder."""
    outcome = lab.run_python(
        windows_path(DLLS / "session.py"),
        windows_path(ROOT),
        " ".join([windows_path(folder / "prog.exe"), *script]),
        folder=folder,
        variables={"PYTHONPYCACHEPREFIX": windows_path(lab.python / "compiled")},
    )
    found = Run()
    ended = False
    for line in outcome.output.splitlines():
        what, _, rest = line.partition(" ")
        if what == "FREE":
            found.frees.append(json.loads(rest))
        elif what == "WAIT":
            found.waits.append(json.loads(rest))
        elif what == "LOG":
            found.log = json.loads(rest)
            ended = True
    assert ended, outcome.output[-3000:] + outcome.errors[-3000:]
    return found


def random_dlls(chooser: random.Random, count: int) -> list[Dll]:
    """Make up DLLs; cycles among them are as likely as not."""
    names = [f"d{number}" for number in range(count)]
    made = []
    for number, name in enumerate(names):
        others = [each for each in names if each != name]
        later = names[number + 1 :]
        pool = others if chooser.random() < 0.3 else later
        imports = tuple(sorted(chooser.sample(pool, min(len(pool), chooser.randint(0, 3)))))
        made.append(Dll(name, imports))
    return made


def random_script(chooser: random.Random, dlls: Sequence[Dll], rounds: int) -> list[str]:
    """Make up rounds of loads and frees, after each of which everything is freed; the last one pins as well."""
    words: list[str] = []
    for number in range(rounds):
        pins = 1 if number == rounds - 1 else 0
        for _ in range(12):
            name = chooser.choice(dlls).name + ".dll"
            words += [chooser.choices(("load", "free", "pin"), (5, 4, pins))[0], name]
        for dll in chooser.sample(dlls, len(dlls)):
            words += ["free", f"{dll.name}.dll"]
    return words
