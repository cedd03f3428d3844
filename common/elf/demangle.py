"""What did the programmer write, given the linker's name of a symbol?

C++ names go through ``__cxa_demangle`` of libstdc++, the function that the C++ run-time itself uses; Rust names
through the package rust_demangler.  A name that neither knows, or for which neither is installed, stays as it is.
"""

from __future__ import annotations

import functools
import re
from typing import Callable, Optional

# A longer name is shown as it is: the C++ demangler's time grows faster than the name.
MAX_MANGLED_LENGTH = 4096

_RUST_LEGACY = re.compile(r"^_ZN.*17h[0-9a-f]{16}E(\.llvm\.[0-9A-F]+)?$")
_RUST_HASH = re.compile(r"::h[0-9a-f]{16}$")


def demangle(name: str) -> str:
    """Demangle a C++ or Rust name; versions such as ``@@GLIBC_2.34`` are cut off first."""
    plain = name.split("@", 1)[0]
    if len(plain) > MAX_MANGLED_LENGTH:
        return plain
    if plain.startswith("_R") or _RUST_LEGACY.match(plain):
        return _demangle_rust(plain)
    if plain.startswith("_Z"):
        function = _cxa_demangle()
        return (function(plain) if function else None) or plain
    return plain


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


@functools.lru_cache(maxsize=1)
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
