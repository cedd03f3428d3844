"""Is a demangled name what the compilers' own tools print, and is every other name kept, at a bounded price?"""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from dlwhy.common.helper import shared_helper
from dlwhy.common.linux.elf import demangle as module
from dlwhy.common.linux.elf.demangle import MAX_MANGLED_LENGTH, demangle
from dlwhy.tests.synth.loaded import system_library
from elftools.elf.elffile import ELFFile

from ..synth.names import doubling_cxx, doubling_rust

SMALL = 1 << 20


def libstdcxx_names() -> list[str]:
    with system_library("libstdc++.so.6").open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".dynsym")
        return sorted({symbol.name for symbol in table.iter_symbols() if symbol.name.startswith("_Z")})


def test_libstdcxx_as_cxxfilt_does() -> None:
    names = libstdcxx_names()
    assert len(names) > 3000
    done = subprocess.run(["c++filt", "-i"], input="\n".join(names), capture_output=True, text=True, check=True)
    for name, expected in zip(names, done.stdout.splitlines()):
        assert demangle(name) == expected, name


@pytest.mark.parametrize(
    ("mangled", "expected"),
    [
        ("_ZN5TallyD1Ev", "Tally::~Tally()"),
        ("_ZZ7countervE5count", "counter()::count"),
        ("_ZN8RegistryIiE8instanceE", "Registry<int>::instance"),
        ("_ZN5TallyD1Ev@@LIBB_1.0", "Tally::~Tally()"),
        ("_ZN4core3fmt9Formatter9write_str17h0123456789abcdefE", "core::fmt::Formatter::write_str"),
        (
            "_ZN3std3sys12thread_local6native5eager7destroy17h1f2e3d4c5b6a7988E",
            "std::sys::thread_local::native::eager::destroy",
        ),
        ("_ZN37_$LT$T$u20$as$u20$core..ops..Drop$GT$4drop17hfedcba9876543210E", "<T as core::ops::Drop>::drop"),
        ("_ZN4core3fmt5write17h0123456789abcdefE.llvm.1234ABCD", "core::fmt::write"),
        ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
        ("_RINvNtC3std3mem8align_ofdE", "std::mem::align_of::<f64>"),
    ],
)
def test_known_names(mangled: str, expected: str) -> None:
    assert demangle(mangled) == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        "printf",
        "main",
        "_",
        "_Z",
        "_ZN",
        "_Znonsense",
        "_R",
        "_Rnonsense",
        "_RNvCs1234_7my",
        "_ZN9999999999999999999999993foo17h0123456789abcdefE",
        "_Z1f" + "P" * 4000,
        "_RINvC1a1b" + "T" * 4000,
        "_RINvC1a1bB7_E",
        "_ZN\udcff\x1b[31m",
        "résumé",
    ],
)
def test_other_names_stay(name: str) -> None:
    answer = demangle(name)
    assert answer == name or answer.startswith("f(")


def test_versions_are_cut_off() -> None:
    assert demangle("memcpy@@GLIBC_2.14") == "memcpy"
    assert demangle("memcpy@GLIBC_2.2.5") == "memcpy"


def test_a_longer_name_than_any_compiler_writes_stays() -> None:
    name = "_Z1f" + "i" * MAX_MANGLED_LENGTH
    assert demangle(name) == name


def test_short_names_may_not_become_long_ones() -> None:
    """A target names its symbols as it likes; 230 bytes must not become 142 MB, nor hang the debugger."""
    assert demangle(doubling_cxx(2)).startswith("f(A<int, int>, A<A<int, int>, A<int, int> >")
    assert len(demangle(doubling_cxx(21))) < SMALL


def test_short_rust_names_may_not_become_long_ones() -> None:
    assert demangle(doubling_rust(3)) == "a::b::<(i32, i32), ((i32, i32), (i32, i32)), " + (
        "(((i32, i32), (i32, i32)), ((i32, i32), (i32, i32)))>"
    )
    began = time.process_time()
    answer = demangle(doubling_rust(13))
    assert len(answer) < SMALL // 16
    assert time.process_time() - began < 10


def test_nested_pack_expansions() -> None:
    assert demangle("_Z1fIJiiEEvDpT_") == "void f<int, int>(int, int)"
    assert len(demangle("_Z1fIJ" + "i" * 14 + "EEv" + "Dp" * 5 + "T_")) < SMALL


def test_without_demanglers_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    shared_helper().close()
    monkeypatch.setattr(module, "_cxa_demangle", lambda: None)
    monkeypatch.setitem(sys.modules, "rust_demangler", None)
    assert demangle("_ZN5TallyD1Ev") == "_ZN5TallyD1Ev"
    assert demangle("_RNvCs1234_7mycrate3foo") == "_RNvCs1234_7mycrate3foo"
    shared_helper().close()
