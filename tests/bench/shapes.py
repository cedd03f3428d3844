"""Which libraries need which, in a process with hundreds of them, in five shapes?

``flat``: none needs another; ``bound``: each is bound to 20 earlier ones, which it does not need; ``dag``: each needs 3
earlier ones; ``chain``: each needs the one before; ``clique``: blocks of 30 of which each needs all others.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

SHAPES = ("flat", "bound", "dag", "chain", "clique")
_BOUND_TO, _NEEDED, _BLOCK = 20, 3, 30
_GCC = ("gcc", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-")


def edges(shape: str, count: int) -> Mapping[int, Sequence[int]]:
    """Return the numbers of the libraries that each one needs, or is bound to."""
    chance = random.Random(1)
    if shape == "flat":
        return dict.fromkeys(range(count), ())
    if shape == "chain":
        return {number: range(max(0, number - 1), number) for number in range(count)}
    if shape == "clique":
        blocks = [range(first, min(count, first + _BLOCK)) for first in range(0, count, _BLOCK)]
        return {number: [each for each in block if each != number] for block in blocks for number in block}
    most = _BOUND_TO if shape == "bound" else _NEEDED
    return {number: chance.sample(range(number), min(most, number)) for number in range(count)}


def build(shape: str, count: int, folder: Path) -> Path:
    """Build a program and its libraries; gives the program."""
    program = folder / "shapes"
    subprocess.run(["gcc", "-o", program, Path(__file__).with_suffix(".c")], check=True)
    wanted = edges(shape, count)
    stubs = folder / "stubs"
    stubs.mkdir()
    with ThreadPoolExecutor(2) as pool:
        # The linker asks for what is needed before it is built.
        list(pool.map(lambda number: _link(stubs / f"lib{number}.so", f"lib{number}.so", "", ()), range(count)))
        list(pool.map(lambda number: _build(shape, folder, number, wanted[number]), range(count)))
    return program


def _build(shape: str, folder: Path, number: int, others: Sequence[int]) -> None:
    if shape == "bound":
        declared = "".join(f"void f{other}(int);" for other in others)
        called = "".join(f"f{other}(depth - 1);" for other in others)
        source = f"{declared} void f{number}(int depth) {{ if (depth > 0) {{ {called} }} }}"
        _link(folder / f"lib{number}.so", f"lib{number}.so", source, ("-Wl,-z,lazy",))
    else:
        needed = [str(folder / "stubs" / f"lib{other}.so") for other in others]
        options = ("-Wl,--no-as-needed", *needed, f"-Wl,-rpath,{folder}")
        _link(folder / f"lib{number}.so", f"lib{number}.so", f"int v{number};", options)


def _link(path: Path, soname: str, source: str, options: Sequence[str]) -> None:
    words = [*_GCC, "-o", str(path), f"-Wl,-soname,{soname}", "-x", "none", *options]
    subprocess.run(words, input=source, text=True, check=True)


@contextmanager
def running(program: Path, count: int, opened: str) -> Iterator[int]:
    """Run the program until it has opened all libraries, or the last; gives its process id."""
    is_bound = b"\0f1\0" in (program.parent / "lib1.so").read_bytes()
    calls = ["call"] if is_bound and opened == "all" else []
    words = [str(program), str(program.parent), str(count), opened, *calls]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process.pid
        finally:
            process.kill()
