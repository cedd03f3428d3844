"""What is the source name of a mangled symbol?

C++ names are demangled by ``__cxa_demangle`` of libstdc++, which the C++ run-time itself uses, Rust names by the
package rust_demangler.  A name that cannot be demangled, or whose demangler is not installed, stays as it is.

Both run in the helper process: ``_ZcvDOsrdtDO`` makes libstdc++ 12 loop forever, 230 bytes can expand to 142 MB, and
rust_demangler prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Optional

from ...helper import shared_helper

# A longer name is shown as it is: the C++ demangler's time grows faster than the name.
MAX_MANGLED_LENGTH = 4096

#: Seconds of processor time for one hostile name, or for a few hundred normal ones, which take 5 to 500 us each.
NAME_SECONDS = 0.25


def demangle(name: str) -> str:
    """Demangle a C++ or Rust name; versions such as ``@@GLIBC_2.34`` are cut off first."""
    return demangle_all((name,))[name]


def demangle_all(names: Iterable[str]) -> dict[str, str]:
    """Demangle C++ and Rust names; return the results by name.

    Other names, and names whose result is too long or takes too long, lose only their version.
    """
    plain = {name: name.split("@", 1)[0] for name in names}
    mangled = sorted({name for name in plain.values() if _is_mangled(name)})
    if not mangled:
        return plain
    _cxa_demangle()  # loads libstdc++ here, so that the child need not
    replies = shared_helper().ask(demangle_in_child, [_encoded(name) for name in mangled], NAME_SECONDS)
    known = {name: reply.decode("utf-8", "surrogateescape") for name, reply in zip(mangled, replies) if reply}
    return {name: known.get(short, short) for name, short in plain.items()}


def _is_mangled(name: str) -> bool:
    return name.startswith(("_Z", "_R")) and len(name) <= MAX_MANGLED_LENGTH


def _encoded(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "replace")


# -- in the child ------------------------------------------------------------------------------------------------------


def demangle_in_child(name: bytes, _: int) -> bytes:
    """Demangle a name; return nothing if it cannot be demangled."""
    if name.startswith(b"_R") or _is_legacy_rust(name):
        return _demangle_rust(name)
    function = _cxa_demangle()
    return function(name) or b"" if function else b""


def _is_legacy_rust(name: bytes) -> bool:
    """Return True for names ``_ZN…17h0123456789abcdefE``, also with ``.llvm.`` and a hexadecimal number appended."""
    if b"17h" not in name:
        return False
    import re

    return re.match(rb"_ZN.*17h[0-9a-f]{16}E(\.llvm\.[0-9A-F]+)?\Z", name) is not None


def _demangle_rust(name: bytes) -> bytes:
    import re

    from rust_demangler import demangle as demangle_rust

    return re.sub(rb"::h[0-9a-f]{16}$", b"", _encoded(str(demangle_rust(name.decode("utf-8", "surrogateescape")))))


@cache
def _cxa_demangle() -> Optional[Callable[[bytes], Optional[bytes]]]:
    """Return a wrapper of libstdc++'s demangler, which returns None for other names; None without libstdc++."""
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

    def call(name: bytes) -> Optional[bytes]:
        status = ctypes.c_int()
        address = function(name, None, None, ctypes.byref(status))
        if not address:
            return None
        try:
            return ctypes.string_at(address)
        finally:
            free(address)

    return call
