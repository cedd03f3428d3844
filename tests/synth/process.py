"""How does a test get the core of a real process? It compiles one, lets it stop by itself, and gdb dumps it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlwhy.tests.support.children import running

RPATH = "-Wl,-rpath,$ORIGIN"


def compile_file(folder: Path, output: str, source: str, *flags: str, language: str = "c++") -> Path:
    """Compile source text to a program, or to a library where the name ends in .so."""
    target = folder / output
    words = ["g++" if language == "c++" else "gcc", "-g", "-O1", "-x", language, "-", "-x", "none", "-o", str(target)]
    if output.endswith(".so"):
        words += ["-fPIC", "-shared", f"-Wl,-soname,{output}"]
    words += [f"-L{folder}", RPATH, *flags, "-ldl", "-lpthread"]
    done = subprocess.run(words, input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def dump(
    program: Path, core: Path, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Path:
    """Run a program until it prints "ready", write its core, end it."""
    with running([program, *arguments], environment or {}) as process:
        words = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set auto-solib-add off"]
        words += ["-p", str(process.pid), "-ex", f"generate-core-file {core}"]
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert core.exists(), done.stdout + done.stderr
    return core
