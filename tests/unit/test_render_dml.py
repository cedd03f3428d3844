"""Is text marked up so that WinDbg shows the same text, with links?"""

from __future__ import annotations

import pytest
from dlwhy.common.render.dml import to_dml


def test_what_means_something_in_dml_is_escaped() -> None:
    assert to_dml('a < b & "c" > d\n') == "a &lt; b &amp; &quot;c&quot; &gt; d\n"


def test_no_entity_that_windbg_does_not_know() -> None:
    assert to_dml("ntdll's") == "ntdll's"


@pytest.mark.parametrize(
    ("text", "type_name", "address", "typed"),
    [
        ("VAD fffffa800855f230  Mapped", "_MMVAD", "fffffa800855f230", "fffffa800855f230"),
        ("  control area fffffa80`00004a90   2 views", "_CONTROL_AREA", "fffffa80`00004a90", "fffffa8000004a90"),
        ("file object 85000ec8 (fast", "_FILE_OBJECT", "85000ec8", "85000ec8"),
    ],
)
def test_addresses_of_kernel_objects_are_links(text: str, type_name: str, address: str, typed: str) -> None:
    assert to_dml(text) == text.replace(address, f'<link cmd="dt nt!{type_name} {typed}">{address}</link>')


def test_names_of_dlls_are_links_to_the_command() -> None:
    link = '<link cmd="!dllstate libA.dll">libA.dll</link>'
    assert to_dml("held by libA.dll.", "!dllstate") == f"held by {link}."
    assert to_dml("held by libA.dll") == "held by libA.dll"


@pytest.mark.parametrize("text", ["C:\\Windows\\a.dll", "C:/x/a.dll", "a.dllx", "x-.dat"])
def test_what_is_no_name_of_a_dll_stays(text: str) -> None:
    assert to_dml(text, "!dllstate") == text
