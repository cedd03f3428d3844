"""How are the fixtures built and run for another processor? With Debian's cross compilers, below qemu-user.

i386 runs on the processor itself. What is missing is installed as root, with apt-get.
"""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Optional

from dlwhy.common.setup import apt
from dlwhy.common.setup.changes import Changes
from dlwhy.tests.hosts import glibcs
from dlwhy.tests.hosts.build import Toolchain, build, cache_folder, compiler_version
from dlwhy.tests.hosts.gdbrun import (
    NO_DEBUG_INFO,
    SCRIPT,
    Answers,
    clean_environment,
    libraries_at,
    read_document,
    run_environment,
)
from dlwhy.tests.hosts.scenario import Fixture, Run, fixtures
from dlwhy.tests.support.children import output_of

TIMEOUT = 120
PT_LOAD, PT_NOTE, NT_FILE = 1, 4, 0x46494C45
SOCKET = "gdb.socket"


#: What a sysroot holds.
RUNTIME = ("libc6", "libstdc++6")


@dataclass(frozen=True)
class Architecture:
    """A processor: Debian's name and the GNU one, the compilers' prefix, the loader, and what has to be installed.

    ``suites`` are the releases of Debian that have it and whose glibc can run what is linked here.  Without
    ``emulator`` this machine's own processor and system run its programs.
    """

    name: str
    gnu: str
    triplet: str
    loader: str
    packages: tuple[str, ...]
    suites: tuple[str, ...] = ()
    emulator: str = ""

    @property
    def writes_cores(self) -> bool:
        """Return True if qemu 7.2 writes cores for it."""
        return self.name != "riscv64"

    def command(self, sysroot: Optional[Path], program: Path, *options: str) -> list[str]:
        """Return what runs a program, with options of the emulator."""
        return [self.emulator, "-L", str(sysroot), *options, str(program)] if sysroot else [str(program)]


def _emulated(name: str, triplet: str, gnu: str, loader: str, *suites: str) -> Architecture:
    packages = (f"g++-{triplet}", "qemu-user-static", "gdb-multiarch")
    return Architecture(name, gnu, triplet, loader, packages, suites, f"qemu-{gnu}-static")


I386 = Architecture(
    "i386", "i386", "i686-linux-gnu", "ld-linux.so.2", ("g++-i686-linux-gnu", "libc6-i386", "lib32stdc++6")
)
EMULATED = (
    _emulated("arm64", "aarch64-linux-gnu", "aarch64", "ld-linux-aarch64.so.1", "bookworm", "trixie"),
    _emulated("armhf", "arm-linux-gnueabihf", "arm", "ld-linux-armhf.so.3", "bookworm", "trixie"),
    _emulated("ppc64el", "powerpc64le-linux-gnu", "ppc64le", "ld64.so.2", "bookworm", "trixie"),
    _emulated("riscv64", "riscv64-linux-gnu", "riscv64", "ld-linux-riscv64-lp64d.so.1", "trixie"),
    _emulated("s390x", "s390x-linux-gnu", "s390x", "ld64.so.1", "bookworm", "trixie"),
)


@dataclass(frozen=True)
class CrossToolchain(Toolchain):
    """Compilers for another processor."""

    prefix: str = ""
    version: str = ""

    def command(self, words: list[str], folder: Path) -> list[str]:
        """Take the cross compiler of that name."""
        return [f"{self.prefix}-{words[0]}", *words[1:]]


@cache
def require(architecture: Architecture) -> CrossToolchain:
    """Install what an architecture needs, unless it is there.

    :raises SetupError: if it cannot be installed; says the command to run first.
    """
    with glibcs.locked(cache_folder() / "apt.lock"):
        apt.require_packages(Changes(dry_run=False), dict.fromkeys(architecture.packages))
    version = compiler_version(f"{architecture.triplet}-g++")
    return CrossToolchain(architecture.name, prefix=architecture.triplet, version=version)


@cache
def sysroot_of(architecture: Architecture, suite: str) -> Path:
    """Return a folder with the C and C++ libraries of a release of Debian; downloaded when it is not there."""
    return glibcs.cached_tree(f"sysroot-{suite}-{architecture.name}", partial(_extract, architecture.name, suite))


def _extract(name: str, suite: str, tree: Path) -> None:
    """Download the packages for an architecture and unpack them into a tree."""
    with tempfile.TemporaryDirectory(prefix="dlwhy-apt-") as scratch:
        folder = Path(scratch)
        for each in ("state/lists/partial", "cache/archives/partial"):
            (folder / each).mkdir(parents=True)
        (folder / "status").touch()
        signed = f"signed-by={glibcs.KEYRING}" if glibcs.KEYRING.exists() else ""
        source = f"deb [arch={name} {signed}] {glibcs.mirror()} {suite} main\n"
        (folder / "sources.list").write_text(source, encoding="ascii")
        options = ("-o", f"APT::Architecture={name}", "-o", f"APT::Architectures={name}")
        glibcs.apt(folder, *options, "update")
        glibcs.apt(folder, *options, "install", "--download-only", *RUNTIME)
        for package in sorted((folder / "cache" / "archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), str(tree)], check=True)
    shutil.rmtree(tree / "usr" / "share", ignore_errors=True)
    for each in ("lib", "lib64"):  # since trixie packages have their files below usr alone; base-files has the links
        if (tree / "usr" / each).is_dir() and not (tree / each).exists():
            (tree / each).symlink_to(f"usr/{each}")
    for path in tree.rglob("*"):
        target = os.readlink(path) if path.is_symlink() else ""
        if target.startswith("/"):
            path.unlink()
            path.symlink_to(os.path.relpath(tree / target[1:], path.parent))


def portable(name: str) -> Fixture:
    """Return a fixture without what is written in Rust, for which there is no cross compiler here."""
    fixture = fixtures()[name]
    rust = {each.output for each in fixture.builds if each.source.suffix == ".rs"}
    if not rust:
        return fixture
    builds = tuple(each for each in fixture.builds if each.output not in rust)
    runs = tuple(run for run in fixture.runs if not run.name.startswith("rust"))
    return dataclasses.replace(fixture, builds=builds, runs=runs)


def fixture_for(architecture: Architecture, name: str) -> Fixture:
    """Return a fixture with its expectations in this architecture's names."""
    names = {"ld-linux-x86-64.so.2": architecture.loader, "linux-vdso.so.1": "linux-gate.so.1"}
    fixture = portable(name)
    expectations = [
        dataclasses.replace(each, library=names.get(each.library, each.library))
        for each in fixture.expectations
        if not (architecture.emulator and each.library == "linux-vdso.so.1")  # qemu 7.2 has none
    ]
    return dataclasses.replace(fixture, expectations=tuple(expectations))


def with_flags(fixture: Fixture, *flags: str) -> Fixture:
    """Return a fixture whose libraries are linked with more flags."""
    builds = [
        dataclasses.replace(each, tokens=(*each.tokens, *flags)) if each.output.endswith(".so") else each
        for each in fixture.builds
    ]
    return dataclasses.replace(fixture, builds=tuple(builds))


def build_for(architecture: Architecture, fixture: Fixture) -> Path:
    """Build a fixture for an architecture; return its folder."""
    return build(fixture, require(architecture))


def environment_of(run: Run, folder: Path, **extra: str) -> dict[str, str]:
    """Return the environment of a fixture's program."""
    return clean_environment({**run_environment(run, folder), **extra})


@contextmanager
def waiting_for_gdb(command: Sequence[str], environment: Mapping[str, str], out: Path) -> Iterator[Path]:
    """Start a program in the emulator, stopped at its first instruction; give the socket that gdb connects to."""
    with (out / "program.log").open("wb") as log:
        process = subprocess.Popen(
            list(command),
            cwd=out,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + TIMEOUT
        while not (out / SOCKET).is_socket():
            assert process.poll() is None, (out / "program.log").read_text(errors="replace")
            assert time.monotonic() < deadline, f"no socket from {command}"
            time.sleep(0.01)
        yield out / SOCKET
    finally:
        process.kill()
        process.wait()


def _keep(path: Path, command: str) -> str:
    """Return a gdb command that writes what another one prints into a file."""
    return f"python open({str(path)!r}, 'w').write(gdb.execute({command!r}, to_string=True))"


def run_emulated(
    architecture: Architecture,
    sysroot: Path,
    fixture: Fixture,
    run: Run,
    folder: Path,
    out: Path,
    *,
    first: Sequence[str] = (),
) -> Answers:
    """Take a fixture from stop to stop in the emulator and let gdb-multiarch answer at each, after ``first``."""
    out.mkdir(parents=True)
    program = folder / fixture.program
    libraries = libraries_at(fixture, run.name)
    commands = [f"set sysroot {sysroot}", f"file {program}", f"target remote {SOCKET}", "break stop_here"]
    for stop in fixture.stops:
        commands.append("continue")
        commands.append(f"python assert int(gdb.selected_frame().read_var('number')) == {stop}")
        commands.append(_keep(out / f"{stop}.json", "dlstate --json"))
        commands.append(_keep(out / f"{stop}.txt", "dlstate"))
        commands.append(_keep(out / f"{stop}.plans", "dlplan --all --json"))
        for index, library in enumerate(libraries[str(stop)]):
            commands.append(_keep(out / f"{stop}.{index}.json", f"dlstate {library} --json"))
            commands.append(_keep(out / f"{stop}.{index}.txt", f"dlstate {library} -v"))
    commands.append("continue")
    words = ["gdb-multiarch", "-nx", "-batch"]
    for option in ("set debuginfod enabled off", "set confirm off", NO_DEBUG_INFO):
        words += ["-iex", option]
    words += ["-x", str(SCRIPT)]
    for command in (*first, *commands):
        words += ["-ex", command]
    # The socket is given by its name alone: its path may have 107 characters at most.
    command_line = architecture.command(sysroot, program, "-g", SOCKET)
    with waiting_for_gdb(command_line, environment_of(run, folder, FIXTURE_WITNESS="1"), out):
        output = output_of(words, out)
    stops = tuple(stop for stop in fixture.stops if (out / f"{stop}.json").exists())
    output += (out / "program.log").read_text(encoding="utf-8", errors="surrogateescape")
    return Answers(out, stops, {stop: read_document(out / f"{stop}.json") for stop in stops}, output)


def emulated_core(
    architecture: Architecture, sysroot: Path, fixture: Fixture, run: Run, folder: Path, stop: int, out: Path
) -> Path:
    """Let a fixture's program die in the emulator at a stop, and return the core that the emulator writes."""
    out.mkdir(parents=True)

    def allow_cores() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    subprocess.run(
        architecture.command(sysroot, folder / fixture.program),
        cwd=out,
        env=environment_of(run, folder, FIXTURE_ABORT=str(stop)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        preexec_fn=allow_cores,
    )
    written = sorted(out.glob("qemu_*.core"))
    assert len(written) == 1, f"{architecture.emulator} wrote {written}"
    for other in (*out.glob("core"), *out.glob("core.*")):  # the kernel's core of the emulator itself
        other.unlink()
    core = out / f"{stop}.core"
    written[0].rename(core)
    return core


def as_emulators(core: Path, output: Path) -> int:
    """Copy a little-endian core without its list of files and, as qemu-user, without segments that begin as ELF files.

    The vDSO stays, which qemu 7.2 does not have. Return how many segments were taken away.
    """
    data = bytearray(core.read_bytes())
    is_64 = data[4] == 2
    table = struct.unpack_from("<Q" if is_64 else "<I", data, 32 if is_64 else 28)[0]
    size, count = struct.unpack_from("<HH", data, 54 if is_64 else 42)
    cut = 0
    for at in range(table, table + count * size, size):
        kind = struct.unpack_from("<I", data, at)[0]
        length_at = at + (32 if is_64 else 16)
        offset = struct.unpack_from("<Q" if is_64 else "<I", data, at + (8 if is_64 else 4))[0]
        length = struct.unpack_from("<Q" if is_64 else "<I", data, length_at)[0]
        content = bytes(data[offset : offset + length])
        if kind == PT_LOAD and content.startswith(b"\x7fELF") and not re.search(rb"linux-(vdso|gate)\.so\.1", content):
            struct.pack_into("<Q" if is_64 else "<I", data, length_at, 0)
            data[offset : offset + length] = bytes(length)
            cut += 1
        position = offset
        while kind == PT_NOTE and position + 12 <= offset + length:
            name, described, note = struct.unpack_from("<III", data, position)
            if note == NT_FILE:
                struct.pack_into("<I", data, position + 8, 0)
            position += 12 + (name + 3 & ~3) + (described + 3 & ~3)
    output.write_bytes(data)
    return cut
