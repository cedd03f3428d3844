"""Is the library found that the user means, however it is named?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from dlwhy.common.errors import NotFoundError
from dlwhy.common.linux.model import Library
from dlwhy.common.linux.state.matching import UnmatchedAddressError, select
from dlwhy.tests.synth.answers import library


def make(path: str, number: int, soname: str | None = None, *, namespace: int = 0, proxy: bool = False) -> Library:
    start = 0x7F00_0000_0000 + number * 0x10_0000
    return library(name=path.rsplit("/", 1)[-1])._replace(
        path=path,
        soname=soname,
        load_bias=start,
        start=start,
        end=start + 0x5000,
        link_map=0x5555_0000_0000 + number * 0x1000,
        namespace=namespace,
        proxy=proxy,
    )


MAIN = make("/opt/app/progA", 0)
LIBC = make("/lib/x86_64-linux-gnu/libc.so.6", 1, "libc.so.6")
PLUGIN_A = make("/opt/app/plugins/a/plugin.so", 2, "plugin.so")
PLUGIN_B = make("/opt/app/plugins/b/plugin.so", 3, "plugin.so")
SSL = make("/usr/lib/libssl-custom.so", 4, "libssl.so.3")
BRACKETS = make("/opt/app/lib[x].so", 5)
INNER = make("/lib/x86_64-linux-gnu/libc.so.6", 6, "libc.so.6", namespace=1)
PROXY = make("/lib64/ld-linux-x86-64.so.2", 7, namespace=1, proxy=True)
ODD = make("/opt/app/0x1000", 8)
ALL = (MAIN, LIBC, PLUGIN_A, PLUGIN_B, SSL, BRACKETS, INNER, PROXY, ODD)


def evaluator(values: dict[str, int]) -> Callable[[str], int]:
    """Evaluate expressions as a debugger would, those of a table and numbers."""

    def evaluate(expression: str) -> int:
        if expression in values:
            return values[expression]
        try:
            return int(expression, 0)
        except ValueError:
            raise NotFoundError(f"No symbol '{expression}' in current context") from None

    return evaluate


def start_of(library: Library) -> int:
    """Return where a library is mapped."""
    assert library.start is not None
    return library.start


def end_of(library: Library) -> int:
    """Return the address after a library's mappings."""
    assert library.end is not None
    return library.end


#: A function or an array is its own address; a variable has an address and a value.
VALUES = {
    "code": start_of(LIBC) + 16,
    "&code": start_of(LIBC) + 16,
    "stale": 0x5555_0000_9000,
    "&stale": start_of(MAIN) + 8,
    "$pc": start_of(PLUGIN_B) + 0x1234,
    "handle": SSL.link_map,
    "&buffer": start_of(LIBC) + 8,
    "buffer": 0x10,
    "zero": 0,
    "&only_an_address": start_of(LIBC),
}


def found(text: str, libraries: Sequence[Library] = ALL) -> tuple[Library, ...]:
    return select(libraries, text, evaluator(VALUES))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("libssl-custom.so", (SSL,)),
        ("libssl.so.3", (SSL,)),
        ("/usr/lib/libssl-custom.so", (SSL,)),
        ("progA", (MAIN,)),
        ("libc.so.6", (LIBC, INNER)),
        ("plugin.so", (PLUGIN_A, PLUGIN_B)),
        ("a/plugin.so", (PLUGIN_A,)),
        ("plugins/b/plugin.so", (PLUGIN_B,)),
        ("app/plugins/b/plugin.so", (PLUGIN_B,)),
        ("lib[x].so", (BRACKETS,)),
        ("lib*", (LIBC, SSL, BRACKETS, INNER)),
        ("*.so", (PLUGIN_A, PLUGIN_B, SSL, BRACKETS)),
        ("libss?.so.3", (SSL,)),
        ("*/plugins/?/*", (PLUGIN_A, PLUGIN_B)),
        ("0x1000", (ODD,)),
    ],
)
def test_names(text: str, expected: tuple[Library, ...]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (hex(start_of(PLUGIN_A)), PLUGIN_A),
        (hex(end_of(PLUGIN_A) - 1), PLUGIN_A),
        ("$pc", PLUGIN_B),
        (f"{SSL.link_map:#x}", SSL),
        (f"&{SSL.link_map:#x}", SSL),
        ("handle", SSL),
        ("&handle", SSL),
        ("&code", LIBC),
        ("&only_an_address", LIBC),
    ],
)
def test_expressions(text: str, expected: Library) -> None:
    assert found(text) == (expected,)


@pytest.mark.parametrize(("text", "value"), [("&stale", 0x5555_0000_9000), ("&buffer", 0x10), ("&zero", 0)])
def test_a_handle_that_is_none_is_not_answered_by_the_library_with_the_variable(text: str, value: int) -> None:
    with pytest.raises(UnmatchedAddressError, match=f"no loaded library matches '{text}': {value:#x} is no library's"):
        found(text)


def test_an_address_in_no_library_is_refused_with_its_value() -> None:
    with pytest.raises(UnmatchedAddressError, match="matches 'stale': 0x555500009000 lies in no library"):
        found("stale")


def test_a_suffix_begins_at_a_slash() -> None:
    with pytest.raises(NotFoundError):
        found("ugins/a/plugin.so")
    with pytest.raises(NotFoundError):
        found("/plugin.so.1")


@pytest.mark.parametrize(
    "text", [hex(end_of(PLUGIN_A)), "0x0", "zero", "nosuch", "", "&", "nosuch*", "-1", hex(start_of(PROXY))]
)
def test_nothing_fits(text: str) -> None:
    with pytest.raises(NotFoundError, match="no loaded library matches"):
        found(text)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("libsl-custom.so", "libssl-custom.so"),
        ("plugins.so", "plugin.so"),
        ("/usr/lib/libssl-custom.so.1", "libssl-custom.so"),
        ("ssl", "libssl-custom.so"),
        ("PROGa", "progA"),
    ],
)
def test_near_names(text: str, near: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        found(text)
    assert near in caught.value.near
    assert near in str(caught.value)
    assert len(caught.value.near) <= 3


def test_a_name_goes_before_an_expression() -> None:
    assert select(ALL, "libssl-custom.so", evaluator({"libssl-custom.so": start_of(LIBC)})) == (SSL,)


def test_one_name_is_offered_once() -> None:
    with pytest.raises(NotFoundError) as caught:
        found("plugin.s")
    assert caught.value.near.count("plugin.so") == 1


def test_no_libraries_at_all() -> None:
    with pytest.raises(NotFoundError):
        found("libc.so.6", ())


def test_a_windows_module_under_wine() -> None:
    wine = make("/usr/lib/wine/../x86_64-linux-gnu/wine/x86_64-unix/ntdll.so", 9)
    with pytest.raises(NotFoundError, match="Wine runs this process and loads Windows modules itself"):
        found("kernel32.dll", (MAIN, LIBC, wine))
    with pytest.raises(NotFoundError, match=r"no loaded library matches 'kernel32\.dll'$"):
        found("kernel32.dll", (MAIN, LIBC))
