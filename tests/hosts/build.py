"""How is a fixture compiled? Into a cache folder named after everything that goes into it, safe for parallel runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Optional

from dlwhy.common.setup.rust import find_rustc
from dlwhy.tests.hosts.scenario import FIXTURES, SUFFIXES, Build, Fixture

COMPILERS = {".c": "gcc", ".cpp": "g++", ".rs": "rustc"}
WARNINGS = ("-Wall", "-Wextra")


@dataclass(frozen=True)
class Toolchain:
    """What compiles: the system's compilers, or those in an extracted tree; for which program interpreter."""

    name: str = "system"
    tree: Optional[Path] = None
    interpreter: Optional[Path] = None

    def command(self, words: list[str], folder: Path) -> list[str]:
        """Wrap a compiler's command line so that it runs in that folder; there is no rustc in a tree."""
        if words[0] == "rustc":
            return [find_compiler("rustc") or "rustc", *words[1:]]
        if self.tree is None:
            return words
        inside = "/" + folder.relative_to(self.tree).as_posix()
        enter = ["chroot", str(self.tree), "/usr/bin/env", "-C", inside, "PATH=/usr/bin:/bin", *words]
        return enter if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", *enter]


def cache_folder() -> Path:
    """Return the folder for what can be made again."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "dlwhy"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def find_compiler(name: str) -> Optional[str]:
    """Find a compiler that works: rustup puts a rustc on PATH that has no toolchain where HOME is another."""
    return find_rustc() if name == "rustc" else shutil.which(name)


@cache
def compiler_version(compiler: str) -> str:
    """Return the first line of what a compiler says of itself."""
    path = find_compiler(compiler)
    if path is None:
        raise FileNotFoundError(f"{compiler} is needed to build the fixtures: python3 install.py test installs it")
    run = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    return run.stdout.partition("\n")[0]


def command_lines(build: Build, source: str, toolchain: Toolchain) -> list[list[str]]:
    """Return the compilers' command lines, to be run in the build folder."""
    compiler = COMPILERS[build.source.suffix]
    libraries, flags = [], []
    for token in build.tokens:
        if token.startswith("cc="):
            compiler = token[3:]
        elif token.startswith("-"):
            flags.append(token)
        else:
            libraries.append(token)
    is_library = build.output.endswith(".so")
    is_static = any(flag.startswith("-static") for flag in flags)
    paths = ["-Wl,-rpath,$ORIGIN", "-Wl,-rpath-link,."]
    if "/" in build.output:
        paths.append("-Wl,-rpath,$ORIGIN/..")
    # glibc 2.36: a static-pie program that has a DT_RUNPATH crashes while it relocates itself.
    link = [*([] if is_static else paths), "-Wl,--no-as-needed", *libraries, "-Wl,--as-needed", *flags]
    if is_library:
        link.append(f"-Wl,-soname,{Path(build.output).name}")
    elif toolchain.interpreter is not None:
        link.append(f"-Wl,--dynamic-linker={toolchain.interpreter}")
    if compiler == "rustc":
        words = [compiler, "--edition=2021", "-Copt-level=1", "-Cdebuginfo=1", "--crate-name", Path(build.output).stem]
        if toolchain.tree is None:
            arguments = [f"-Clink-arg={word}" for word in link]
            return [[*words, "--crate-type=cdylib", *arguments, "-o", build.output, source]]
        # Rust's own linking would need the tree's libraries: let the tree's gcc link what rustc compiled.
        archive = f"{build.output}.a"
        whole = ["-Wl,--whole-archive", archive, "-Wl,--no-whole-archive", "-Wl,--gc-sections"]
        return [
            [*words, "--crate-type=staticlib", "-o", archive, source],
            ["gcc", "-shared", "-o", build.output, *whole, *link, "-ldl", "-lpthread"],
        ]
    words = [compiler, "-g", "-O1", *WARNINGS, f"-D{build.macro}"]
    words += ["-std=c++17"] if source.endswith(".cpp") else ["-std=gnu11"]
    if is_library:
        words += ["-fPIC", "-shared"]
    elif not is_static:
        words.append("-rdynamic")
    return [[*words, "-o", build.output, source, *link, "-ldl", "-lpthread"]]


def files_of(fixture: Fixture) -> Iterator[Path]:
    """Yield every file that the fixture's output depends on."""
    yield FIXTURES / "fixture.h"
    yield from sorted({build.source for build in fixture.builds})


def build(fixture: Fixture, toolchain: Optional[Toolchain] = None) -> Path:
    """Build a fixture unless that was done before; return its folder, in which nothing may be changed."""
    toolchain = toolchain or Toolchain()
    commands: list[list[str]] = []
    for each in fixture.builds:
        source = os.path.join("source", each.source.relative_to(FIXTURES))
        commands += command_lines(each, source, toolchain)
    digest = hashlib.sha256()
    for path in files_of(fixture):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    digest.update(repr((commands, fixture.copies, toolchain)).encode())
    for compiler in sorted({command[0] for command in commands}):
        digest.update((compiler_version(compiler) if toolchain.tree is None else compiler).encode())
    folder = cache_folder() / "fixtures" / f"{fixture.name}-{toolchain.name}-{digest.hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    parent = folder.parent if toolchain.tree is None else toolchain.tree / "tmp"
    scratch = Path(tempfile.mkdtemp(prefix=f"{fixture.name}-", dir=parent))
    scratch.chmod(0o755)
    try:
        copy_sources(scratch / "source")
        for each in fixture.builds:
            (scratch / each.output).parent.mkdir(parents=True, exist_ok=True)
        for command in commands:
            run = subprocess.run(
                toolchain.command(command, scratch), cwd=scratch, capture_output=True, text=True, check=False
            )
            if run.returncode != 0:
                raise RuntimeError(f"{fixture.name}: {' '.join(command)}\n{run.stdout}{run.stderr}")
        for original, copy in fixture.copies:
            (scratch / copy).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(scratch / original, scratch / copy)
        move(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def copy_sources(destination: Path) -> None:
    """Copy the fixtures' sources, which a debugger and a compiler in another tree must find beside the program."""
    for path in sorted(FIXTURES.rglob("*")):
        if path.suffix in SUFFIXES or path.suffix == ".h":
            target = destination / path.relative_to(FIXTURES)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def move(scratch: Path, folder: Path) -> None:
    """Put a finished build in its place; the first of several builders wins."""
    if scratch.stat().st_dev != folder.parent.stat().st_dev or scratch.parent != folder.parent:
        beside = Path(tempfile.mkdtemp(dir=folder.parent))
        shutil.copytree(scratch, beside, dirs_exist_ok=True, symlinks=True)
        beside.chmod(0o755)
        scratch = beside
    try:
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(scratch, ignore_errors=True)
