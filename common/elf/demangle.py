"""What did the programmer write, given the linker's name of a symbol?

C++ names go through ``__cxa_demangle`` of libstdc++, the function that the C++ run-time itself uses; Rust names
through the package rust_demangler.  A name that neither knows, or for which neither is installed, stays as it is.
"""

from __future__ import annotations

import re

from ..lean import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional


# A longer name is shown as it is: the C++ demangler's time grows faster than the name.
MAX_MANGLED_LENGTH = 4096

# Back references make long names of short ones: 230 bytes can stand for 142 MB.  Of 100,000 C++ names of Debian's
# libraries, LLVM's among them, 10 could become longer than this by their references, and are shown as they are.
MAX_EXPANSION = 1 << 22
MAX_RUST_EXPANSION = 1 << 16  # the package rust_demangler takes quadratic time

_CXX_REFERENCE = re.compile(r"[ST][0-9A-Z]*_")
_RUST_REFERENCE = re.compile(r"B[0-9a-zA-Z]*_")

_RUST_LEGACY = re.compile(r"^_ZN.*17h[0-9a-f]{16}E(\.llvm\.[0-9A-F]+)?$")
_RUST_HASH = re.compile(r"::h[0-9a-f]{16}$")


def demangle(name: str) -> str:
    """Demangle a C++ or Rust name; versions such as ``@@GLIBC_2.34`` are cut off first."""
    plain = name.split("@", 1)[0]
    if len(plain) > MAX_MANGLED_LENGTH:
        return plain
    if plain.startswith("_R") or _RUST_LEGACY.match(plain):
        is_short = _longest_expansion(plain, _RUST_REFERENCE) <= MAX_RUST_EXPANSION
        return _demangle_rust(plain) if is_short else plain
    if plain.startswith("_Z"):
        if _longest_expansion(plain, _CXX_REFERENCE) > MAX_EXPANSION:
            return plain
        function = _cxa_demangle()
        return (function(plain) if function else None) or plain
    return plain


def _longest_expansion(name: str, references: re.Pattern[str]) -> int:
    """Bound the length of a name with its references replaced: what one refers to ended before its first use."""
    total, last = 0, 0
    sizes: dict[str, int] = {}
    for match in references.finditer(name):
        total += match.start() - last
        last = match.end()
        total += sizes.setdefault(match[0], total)
        if total > MAX_EXPANSION:
            break
    return total + len(name) - last


def _demangle_rust(name: str) -> str:
    try:
        from rust_demangler import demangle as demangle_rust
        from rust_demangler.rust_legacy import UnableToLegacyDemangle
        from rust_demangler.rust_v0 import UnableTov0Demangle
    except ImportError:
        return name
    try:
        return _RUST_HASH.sub("", str(demangle_rust(name)))
    except (UnableToLegacyDemangle, UnableTov0Demangle, ValueError, LookupError, TypeError, RecursionError):
        return name


@cache
def _cxa_demangle() -> Optional[Callable[[str], Optional[str]]]:
    try:
        import ctypes

        library = ctypes.CDLL("libstdc++.so.6")
        libc = ctypes.CDLL(None)
        function = library.__getattr__("__cxa_demangle")
        free = libc.free
    except (ImportError, OSError, AttributeError):
        return None
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]
    free.argtypes = [ctypes.c_void_p]

    def call(name: str) -> Optional[str]:
        status = ctypes.c_int()
        address = function(name.encode("utf-8", "replace"), None, None, ctypes.byref(status))
        if not address:
            return None
        try:
            text = ctypes.string_at(address)
        finally:
            free(address)
        return text.decode("utf-8", "replace")

    return call
