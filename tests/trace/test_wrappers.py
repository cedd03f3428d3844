"""Is the caller named for whom a library opens and closes, not the library that only passes the call on?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dlwhy.common.linux.trace.wrappers import only_wraps
from dlwhy.common.trace.events import Site
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.typed import DEBUGGERS
from dlwhy.tests.trace.debugging import HERE, debug

LIBRARIES = {
    "libplug.so": "LIBPLUG",
    "libwrap.so": "LIBWRAP",
    "libtwice.so": "LIBTWICE",
    "libgmodule-2.0.so.0": "LIBCOPYING",
    "libown.so": "LIBOWN",
    "libunknown.so": "LIBUNKNOWN",
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program and its libraries."""
    folder = tmp_path_factory.mktemp("wrappers")
    source = str(HERE / "wrappers.c")
    paths = ["-g", "-O1", "-L.", "-Wl,-rpath,$ORIGIN"]
    for name, macro in LIBRARIES.items():
        words = ["gcc", *paths, "-shared", "-fPIC", f"-D{macro}", f"-Wl,-soname,{name}", "-o", name, source]
        words += ["-l:libwrap.so"] if name == "libtwice.so" else []
        subprocess.run(words, cwd=folder, check=True)
    needed = [f"-l:{name}" for name in LIBRARIES if name != "libplug.so"]
    subprocess.run(["gcc", *paths, "-rdynamic", "-o", "wrappers", source, *needed], cwd=folder, check=True)
    return folder / "wrappers"


EXPECTED = [
    ("open", "constant", "wrappers", "libwrap.so"),
    ("open", "variable", "wrappers", "libwrap.so"),
    ("open", "twice", "wrappers", "libwrap.so"),
    ("open", "copied", "wrappers", "libgmodule-2.0.so.0"),
    ("open", "copied_to_heap", "wrappers", "libunknown.so"),
    ("open", "copied_to_buffer", "wrappers", "libunknown.so"),
    ("open", "composing_open", "libunknown.so", None),
    ("open", "own_open", "libown.so", None),
    ("open", "intercepted", "wrappers", None),
    ("open", "direct", "wrappers", None),
    ("close", "closing", "wrappers", "libwrap.so"),
]


@pytest.mark.parametrize("host", DEBUGGERS)
def test_who_called_the_wrapper_is_named(program: Path, host: str) -> None:
    go = "continue" if host == GDB else "process continue"
    traced = debug(host, program.parent, program, ["dltrace start --log $LOG", go, "dltrace report -v"])
    callers = [(each["event"], each["caller"]) for each in traced.events() if each["event"] in ("open", "close")]
    found = [(event, each["function"], each["library"], each.get("through")) for event, each in callers]
    assert found == EXPECTED, traced.output
    assert "in wrappers through libwrap.so" in traced.output


@pytest.mark.parametrize(
    ("library", "function", "wraps"),
    [
        ("libQt6Core.so.6", "QPluginLoader::load()", True),
        ("_ctypes.cpython-311-x86_64-linux-gnu.so", "py_dl_open", True),
        ("libasan.so.8", None, True),
        ("host", "___interceptor_dlopen", True),
        ("host", "__interceptor_trampoline_dlclose", True),
        ("host", "dlopen", True),
        ("host", "dlopen_all", False),
        ("libQt5CoreUser.so", "load", False),
        (None, None, False),
    ],
)
def test_what_is_known_to_pass_calls_on(library: str, function: str, wraps: bool) -> None:
    assert only_wraps(Site(0x1000, library, function)) is wraps
