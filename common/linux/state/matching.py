"""Which of the loaded libraries does the user mean?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn, Optional

from ...charset import unescaped
from ...errors import NotFoundError
from ...paths import GLOB_CHARACTERS, base_name
from ..model import Library, runs_wine

#: Similar names are looked for among at most this many.
MAX_COMPARED = 4096


class UnmatchedAddressError(NotFoundError):
    """An expression has a value that fits no library; ``is_handle`` is True if it was given as a handle."""

    def __init__(self, text: str, address: int, is_handle: bool, detail: str = "") -> None:
        what = f"{address:#x} is no library's handle" if is_handle else f"{address:#x} lies in no library"
        super().__init__(f"no loaded library matches '{text}': {detail or what}")
        self.text = text
        self.address = address
        self.is_handle = is_handle

    def with_detail(self, detail: str) -> UnmatchedAddressError:
        """Return the same failure with what is known about the address."""
        return UnmatchedAddressError(self.text, self.address, self.is_handle, detail)


def select(libraries: Sequence[Library], text: str, evaluate: Callable[[str], int]) -> tuple[Library, ...]:
    """Find the libraries that a basename, soname, path suffix, glob, address or expression names.

    ``&`` before an expression says that it is a ``struct link_map`` pointer, such as a handle of dlopen.  One that is
    no library's is refused: where the variable lies that keeps it is another question.

    :raises NotFoundError: if none matches; carries similar names, or is an UnmatchedAddressError.
    """
    by_name = _by_name(libraries, text) if text else ()
    if by_name:
        return by_name
    by_address = _by_expression(libraries, text, evaluate)
    if by_address:
        return by_address
    message = f"no loaded library matches '{text}'"
    if text.lower().endswith((".dll", ".exe")) and runs_wine(libraries):
        message += ": Wine runs this process and loads Windows modules itself, unknown to glibc"
    raise NotFoundError(message, _near(libraries, text))


def _by_name(libraries: Sequence[Library], text: str) -> tuple[Library, ...]:
    exact = tuple(library for library in libraries if text in (library.name, library.soname, library.path))
    if exact:
        return exact
    if "\\" in text and unescaped(text) != text:
        return _by_name(libraries, unescaped(text))  # as answers show it
    if "/" in text:
        suffix = "/" + text.lstrip("/") if not text.startswith("/") else text
        found = tuple(library for library in libraries if (library.path or "").endswith(suffix))
        if found:
            return found
    if GLOB_CHARACTERS.isdisjoint(text):
        return ()
    import fnmatch  # imported when needed, like difflib below: a command takes 30 ms to start as it is

    return tuple(
        library
        for library in libraries
        if any(fnmatch.fnmatchcase(name, text) for name in (library.name, library.soname or "", library.path or ""))
    )


def _by_expression(libraries: Sequence[Library], text: str, evaluate: Callable[[str], int]) -> tuple[Library, ...]:
    """Find the library of an expression's value; none if it has no value.

    :raises UnmatchedAddressError: if it has one that fits no library.
    """
    if not text.startswith("&"):
        address = _value_of(text, evaluate)
        return () if address is None else by_address(libraries, address) or _refuse(text, address, is_handle=False)
    handle, address = _value_of(text[1:], evaluate), _value_of(text, evaluate)
    found = tuple(library for library in libraries if handle is not None and library.link_map == handle)
    if found or (handle is None and address is None):
        return found
    if handle is None or handle == address:
        # Without a value of its own, or a function or array, which is its own address: C's operator is meant.
        assert address is not None
        return by_address(libraries, address) or _refuse(text, address, is_handle=False)
    # The variable that keeps the handle of a closed library lies in another library, which is not the answer.
    return _refuse(text, handle, is_handle=True)


def _value_of(expression: str, evaluate: Callable[[str], int]) -> Optional[int]:
    try:
        return evaluate(expression)
    except NotFoundError:
        return None  # it is a name, and no library has it


def _refuse(text: str, address: int, *, is_handle: bool) -> NoReturn:
    raise UnmatchedAddressError(text, address, is_handle)


def by_address(libraries: Sequence[Library], address: int) -> tuple[Library, ...]:
    """Find the library whose link map is at an address, else the one whose mappings contain it."""
    handles = tuple(library for library in libraries if library.link_map == address)
    return handles or tuple(library for library in libraries if library.contains(address) and not library.proxy)


def _near(libraries: Sequence[Library], text: str) -> list[str]:
    import difflib

    names = list(dict.fromkeys(library.name for library in libraries))[:MAX_COMPARED]
    wanted = base_name(text)
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    return near or [name for name in names if wanted.lower() in name.lower()][:3]
