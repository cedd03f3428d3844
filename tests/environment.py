"""With which packages, of the system and of Python, do the tests run, and how are they installed?"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from dlwhy.common.errors import SetupError
from dlwhy.common.setup.apt import require_packages
from dlwhy.common.setup.changes import Changes
from dlwhy.common.setup.folders import cache_folder
from dlwhy.common.setup.gdb import find_gdb
from dlwhy.common.setup.lldb import find_lldbs, lldb_paths
from dlwhy.common.setup.pip import (
    OLDEST_PYTHON,
    Requirements,
    is_filled,
    prepare_dependencies,
    pure_wheels,
    read_lock,
    read_ranges,
    run_pip,
)
from dlwhy.common.setup.programs import isolated, output_of, run_or_fail
from dlwhy.common.setup.report import dotted, say
from dlwhy.common.setup.rust import find_rustc

TEST_PACKAGES = {
    "apache2-bin": "/usr/sbin/apache2",
    "bzip2": "bzip2",
    "clang": "clang",
    "elfutils": "eu-unstrip",
    "g++": "g++",
    "gcc": "gcc",
    "gcc-mingw-w64-x86-64-win32": "x86_64-w64-mingw32-gcc",
    "gdb": "gdb",
    "gdbserver": "gdbserver",
    "imagemagick-7.q16 | imagemagick-6.q16": "convert-im7.q16 | convert-im6.q16",
    "libc6-dbg": None,
    "libc6-dev": None,
    "lld": "lld-link",
    "lz4": "lz4",
    "make": "make",
    "mmdebstrap": "mmdebstrap",
    "musl-tools": "musl-gcc",
    "opencryptoki": "/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0",
    "perl": "perl",
    "python3": None,
    "wine64": "/usr/lib/wine/wine64",
    "xz-utils": "xz",
    "zlib1g-dev": None,
    "zstd": "zstd",
}


def prepare_test_packages(changes: Changes) -> None:
    """Install the system packages of the tests; where that cannot be, name them and go on."""
    packages = dict(TEST_PACKAGES)
    if find_rustc() is None:
        packages["rustc"] = None
    if not lldb_paths():
        packages["lldb"] = None  # of any version, so that of this release
    try:
        require_packages(changes, packages)
    except SetupError as failure:
        say(f"install.py: tests that need what is missing will fail: {failure}")


def prepare_debugger_dependencies(changes: Changes, by_lock: bool) -> None:
    """Fill the private folders for the Pythons of the debuggers in which the tests run dlwhy."""
    gdb = find_gdb()
    pythons = {lldb.python for lldb in find_lldbs()} | {gdb.python if gdb is not None else None}
    for version in sorted(python for python in pythons if python is not None and python >= OLDEST_PYTHON):
        prepare_dependencies(changes, version, None if by_lock else read_ranges("dependencies"))


def prepare_test_environment(changes: Changes, by_lock: bool) -> Path:
    """Make the virtual environment of the tests, unless it is as wanted; give its Python."""
    version = dotted(sys.version_info[:2])
    folder = cache_folder() / f"test-venv-{version}"
    wanted = read_lock("test") if by_lock else read_ranges("dependencies", "test")
    wanted = wanted._replace(stamp=wanted.stamp + read_lock("runtime").stamp)
    python = folder / "bin" / "python"
    filled = by_lock and is_filled(folder, wanted.stamp)
    if not filled or f"Python {version}" not in output_of([str(python), "--version"]):
        if importlib.util.find_spec("ensurepip") is None:
            require_packages(changes, {"python3-venv": None})
        changes.make(f"make the virtual environment {folder}", fill_environment, folder, python, wanted)
    return python


def fill_environment(folder: Path, python: Path, wanted: Requirements) -> None:
    """Make a virtual environment and install the requirements into it; add the wheels that tests of install need."""
    run_or_fail(isolated("-m", "venv", "--clear", str(folder)), "making the virtual environment")
    pip = [str(python), "-I", "-m", "pip"]
    run_pip(pip, "install", "--quiet", *wanted.words)
    runtime = ["download", *pure_wheels(OLDEST_PYTHON), "--dest", str(folder / "wheels"), *read_lock("runtime").words]
    run_pip(pip, *runtime)
    (folder / "dlwhy-requirements.txt").write_bytes(wanted.stamp.encode())
