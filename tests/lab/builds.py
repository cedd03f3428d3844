"""How is a Windows program compiled here? By mingw, or, where the engine is to read a PDB, by clang and lld."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from dlwhy.tests.lab.windows import COMPILER

CLANG = (
    "clang",
    "--target=x86_64-pc-windows-msvc",
    "-g",
    "-gcodeview",
    "-O0",
    "-ffreestanding",
    "-fno-stack-protector",
)
LINKER = ("lld-link", "/debug:full", "/nodefaultlib")


def compile_with_mingw(output: Path, sources: Sequence[Path], options: Sequence[str] = ()) -> Path:
    """Compile C into a program, or into a DLL where the output is named so; DLLs that it links to are ``options``."""
    kind = ["-shared"] if output.suffix == ".dll" else []
    _run([*COMPILER, *kind, "-o", str(output), *map(str, sources), *options], output.parent)
    return output


def compile_with_pdb(output: Path, source: Path, entry: str, options: Sequence[str] = ()) -> Path:
    """Compile freestanding C into an image and a PDB beside it, which is returned; ``options`` are the linker's."""
    object_file, pdb = output.with_suffix(".obj"), output.with_suffix(".pdb")
    _run([*CLANG, "-c", str(source), "-o", str(object_file)], output.parent)
    named = [f"/out:{output}", f"/pdb:{pdb}", f"/pdbaltpath:{pdb.name}", f"/entry:{entry}"]
    _run([*LINKER, *named, *options, str(object_file)], output.parent)
    return pdb


def _run(words: list[str], folder: Path) -> None:
    run = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}:\n{run.stdout}{run.stderr}")
