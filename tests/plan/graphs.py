"""What does a random graph of libraries consist of, and how is it built quickly?

A library is one object that all share (library.c), one small assembler file of its own with what it is called, needs
and binds to, and where it is C++, or closes in its destructor, one more shared object. Nothing needs a symbol version,
so a graph is built once and runs with every glibc.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, Optional

from dlwhy.tests.hosts.build import cache_folder, compiler_version, move

HERE = Path(__file__).resolve().parent
MOST_LIBRARIES = 16
#: How many rounds are played with each graph.
SEEDS_PER_GRAPH = 2
#: Needs nothing, and nothing needs it: closing it runs the collector.
COLLECT = "libcollect.so"
STUBS = ("libc.so.6", "libdl.so.2", "libpthread.so.0", "libstdc++.so.6")
# -fno-plt: in a namespace of its own libc can be finalised before a library that then has something to bind lazily.
FLAGS = (
    "-O1",
    "-g0",
    "-fPIC",
    "-fno-plt",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-Wall",
    "-Wextra",
)
UNIQUES = 3
CXX = [f"cxx{unique}{owed}" for unique in ["", *map(str, range(UNIQUES))] for owed in ("", "t")][1:]

RTLD_LAZY, RTLD_NOW, RTLD_NOLOAD, RTLD_DEEPBIND, RTLD_GLOBAL, RTLD_NODELETE = 1, 2, 4, 8, 0x100, 0x1000


def name_of(number: int) -> str:
    """Name a library."""
    return f"lib{number:02}.so"


class Opening(NamedTuple):
    """A dlopen in a constructor."""

    number: int
    mode: int


class Shape(NamedTuple):
    """What one library is made of; numbers are those of other libraries of the graph."""

    number: int
    needs: tuple[int, ...] = ()
    lazy: tuple[int, ...] = ()
    weak: tuple[int, ...] = ()
    strict: tuple[int, ...] = ()
    opens: tuple[Opening, ...] = ()
    closes: bool = False
    cxx: str = ""
    nodelete: bool = False
    now: bool = False

    @property
    def name(self) -> str:
        """Give its file's name."""
        return name_of(self.number)

    @property
    def can_fail(self) -> bool:
        """Tell whether it, or what it opens, may not find a symbol that it must have."""
        at_once = any(opening.mode & RTLD_NOW for opening in self.opens)
        return bool(self.strict or (self.now and self.lazy) or at_once)


def random_shapes(dice: random.Random) -> list[Shape]:
    """Make up a graph; three in ten have a library whose destructor closes another."""
    count = dice.randint(8, MOST_LIBRARIES)
    numbers = range(count)
    closer = dice.randrange(count) if dice.random() < 0.3 else None

    def some(most: int, chance: float, number: int) -> tuple[int, ...]:
        chosen = [other for other in numbers if other != number and dice.random() < chance]
        return tuple(dice.sample(chosen, min(most, len(chosen))))

    shapes = []
    for number in numbers:
        opens: list[Opening] = []
        if dice.random() < 0.1:
            opens.append(Opening(dice.choice(numbers), dice.choice((RTLD_LAZY, RTLD_NOW))))
        if dice.random() < 0.02:
            opens.append(Opening(number, RTLD_LAZY))  # pins itself
        if number == closer:
            opens = [Opening(other, RTLD_LAZY) for other in dice.sample(numbers, 2) if other != number]
        cxx = ""
        if dice.random() < 0.12:
            cxx = dice.choice(CXX)
        lazy = some(3, 0.3, number)
        # A weak reference that found nothing stays null: no call may go through it.
        weak = tuple(other for other in some(2, 0.15, number) if other not in lazy)
        shapes.append(
            Shape(
                number,
                # Mostly to higher numbers; what points back makes cycles.
                tuple(k for k in some(3, 0.22, number) if k > number or dice.random() < 0.2),
                lazy,
                weak,
                some(1, 0.02, number),
                tuple(opens),
                number == closer,
                cxx,
                dice.random() < 0.02,
                dice.random() < 0.15,
            )
        )
    return shapes


def reachable(shapes: Sequence[Shape], first: Shape) -> list[Shape]:
    """List a library and all that opening it loads."""
    found = [first]
    for shape in found:
        for number in (*shape.needs, *(opening.number for opening in shape.opens)):
            if shapes[number] not in found:
                found.append(shapes[number])
    return found


def assembler(shape: Shape) -> str:
    """Write what a library has of its own."""

    def lines() -> Iterator[str]:
        yield from (".section .rodata", ".globl lib_name", ".hidden lib_name", f'lib_name: .asciz "{shape.name}"')
        for index, opening in enumerate(shape.opens):
            yield f'open_{index}: .asciz "{name_of(opening.number)}"'
        yield from (".text", f".globl f_{shape.number}", f".type f_{shape.number}, @function", f"f_{shape.number}: ret")
        for other in shape.lazy:
            yield f"lazy_{other}: jmp f_{other}@PLT"
        yield from ('.section .data.rel.ro, "aw"', ".balign 8", ".globl lib_lazy", ".hidden lib_lazy", "lib_lazy:")
        yield from (f".quad lazy_{other}" for other in shape.lazy)
        yield from (".quad 0", ".globl lib_opens", ".hidden lib_opens", "lib_opens:")
        yield from (f".quad open_{index}, {opening.mode}" for index, opening in enumerate(shape.opens))
        yield from (".quad 0, 0", ".data", ".balign 8")
        for other in shape.weak:
            yield from (f".weak f_{other}", f".quad f_{other}")
        yield from (f".quad f_{other}" for other in shape.strict)
        yield '.section .note.GNU-stack, "", @progbits'

    return "\n".join(lines()) + "\n"


def run(*words: object, folder: Optional[Path] = None) -> None:
    """Run a tool; show what it says if it fails."""
    done = subprocess.run([str(word) for word in words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")


@cache
def shared_objects() -> Path:
    """Compile what all graphs share, unless that was done before; give the folder."""
    sources = [HERE / name for name in ("library.c", "closer.c", "cxx.cpp", "driver.c", "stub.c", "graphs.py")]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources))
    digest.update(compiler_version("gcc").encode())
    folder = cache_folder() / "fixtures" / f"plan-{digest.hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="plan-", dir=folder.parent))
    scratch.chmod(0o755)
    try:
        for name in ("library", "closer"):
            run("gcc", *FLAGS, "-c", HERE / f"{name}.c", "-o", scratch / f"{name}.o")
        for name in CXX:
            kind = name[3:]
            macros = [f"-DUNIQUE={kind[0]}"] if kind[0] != "t" else []
            macros += ["-DOWED"] if kind[-1] == "t" else []
            run("g++", *FLAGS, *macros, "-c", HERE / "cxx.cpp", "-o", scratch / f"{name}.o")
        stub = (*FLAGS, "-w", "-fno-builtin", "-shared", "-nostdlib")
        run("gcc", *stub, HERE / "stub.c", "-Wl,-soname,libc.so.6", "-o", scratch / "libc.so.6")
        for name in (*STUBS[1:], COLLECT, *map(name_of, range(MOST_LIBRARIES))):
            run("gcc", *stub, "-xc", "/dev/null", f"-Wl,-soname,{name}", "-o", scratch / name)
        move(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def build_driver(path: Path, interpreter: Optional[Path]) -> None:
    """Build the program that opens and closes, for a loader (None: the system's)."""
    objects = shared_objects()
    needed = [objects / name for name in STUBS[:3]]
    linker = [f"-Wl,--dynamic-linker={interpreter}"] if interpreter else []
    run("gcc", *FLAGS, "-nodefaultlibs", HERE / "driver.c", "-Wl,--no-as-needed", *needed, *linker, "-o", path)


def build_graph(folder: Path, shapes: Sequence[Shape]) -> None:
    """Build the libraries of a graph."""
    objects = shared_objects()
    folder.mkdir()
    for shape in shapes:
        source = folder / f"{shape.number}.s"
        source.write_text(assembler(shape), encoding="ascii")
        run("as", source, "-o", source.with_suffix(".o"))
        inputs = [objects / "library.o", source.with_suffix(".o")]
        inputs += [objects / "closer.o"] if shape.closes else []
        inputs += [objects / f"{shape.cxx}.o"] if shape.cxx else []
        needs = [objects / name_of(number) for number in shape.needs]
        needs += [objects / name for name in (STUBS if shape.cxx else STUBS[:3])]
        options = ["-z", "now" if shape.now else "lazy", *(["-z", "nodelete"] if shape.nodelete else [])]
        options += ["--build-id=sha1", "-soname", shape.name, "-rpath", "$ORIGIN", "--no-as-needed"]
        run("ld", "-shared", *options, "-o", folder / shape.name, *inputs, *needs)
