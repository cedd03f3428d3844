"""Why has a dlopen failed?  In the words that dlerror has for it.

Nothing tells when an open ends, but all errors of ld.so pass through two functions, which leave by longjmp:

    _dl_signal_error (int errcode, const char *objname, const char *occasion, const char *errstring)
    _dl_signal_exception (int errcode, struct dl_exception *exception, const char *occasion)

``struct dl_exception`` begins with ``const char *objname; const char *errstring`` (include/dlfcn.h).  Since glibc 2.25
(commit 9e78f6f6e7) libc has them, and ld.so calls libc's through its PLT; since 2.37 (ee1ada1bdb) they are in ld.so
alone; before 2.25 no dynamic symbol table has them.  dlerror puts the text together (dlfcn/dlerror.c), and would
translate it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

from ...errors import DlwhyError
from ...memory import Memory
from ...target import Hit
from ..elf.image import Image
from .callers import Callers
from .calls import find_function

SIGNAL_ERROR, SIGNAL_EXCEPTION = "_dl_signal_error", "_dl_signal_exception"

_MAX_TEXT = 4096
#: Until glibc 2.26 (3012cfb0d2) internal functions of i386 take their arguments in registers.
_I386_FLOOR = (2, 27)

#: strerror's texts of what opening and mapping a file can say (sysdeps/gnu/errlist.h, sysdeps/unix/sysv/linux).
ERRNO_TEXTS = {
    1: "Operation not permitted",
    2: "No such file or directory",
    4: "Interrupted system call",
    5: "Input/output error",
    6: "No such device or address",
    7: "Argument list too long",
    8: "Exec format error",
    9: "Bad file descriptor",
    11: "Resource temporarily unavailable",
    12: "Cannot allocate memory",
    13: "Permission denied",
    14: "Bad address",
    16: "Device or resource busy",
    19: "No such device",
    20: "Not a directory",
    21: "Is a directory",
    22: "Invalid argument",
    23: "Too many open files in system",
    24: "Too many open files",
    26: "Text file busy",
    27: "File too large",
    36: "File name too long",
    38: "Function not implemented",
    40: "Too many levels of symbolic links",
    75: "Value too large for defined data type",
    79: "Can not access a needed shared library",
    80: "Accessing a corrupted shared library",
    107: "Transport endpoint is not connected",
    116: "Stale file handle",
    121: "Remote I/O error",
}


class Failure(NamedTuple):
    """What dlerror says of a failed open, and the errno behind it, None without one."""

    text: str
    errno: Optional[int]


def find_raisers(
    libc: Optional[Image], rtld: Image, version: Optional[tuple[int, ...]], *, in_rtld: bool
) -> Mapping[int, str]:
    """Find the functions that raise the errors of ld.so, by their addresses; empty where there is no place for them.

    ``in_rtld`` says that the debugger keeps breakpoints in ld.so.
    """
    if rtld.memory.platform.arch == "i386" and (version is None or version < _I386_FLOOR):
        return {}
    # Where libc has them, ld.so's own ones are only for the time before libc is there.
    images = (libc, rtld) if in_rtld else (libc,)
    found = {find_function(images, name): name for name in (SIGNAL_ERROR, SIGNAL_EXCEPTION)}
    return {address: name for address, name in found.items() if address is not None}


def read_failure(callers: Callers, hit: Hit, memory: Memory, function: str) -> Optional[Failure]:
    """Read what a thread at one of these functions raises, None if that cannot be read."""
    try:
        code = callers.argument(hit, memory, 0)
        if function == SIGNAL_ERROR:
            name, text = callers.argument(hit, memory, 1), callers.argument(hit, memory, 3)
        else:
            name, text = memory.words(callers.argument(hit, memory, 1), 2)
        return make_failure(memory, code & 0xFFFF_FFFF, name, text)
    except DlwhyError:
        return None


def make_failure(memory: Memory, code: int, name: int, text: int) -> Failure:
    """Put an error together as dlerror does; ``name`` and ``text`` are addresses, each 0 if there is none.

    :raises DlwhyError: if one of them cannot be read.
    """
    words = [memory.c_string(address, _MAX_TEXT) for address in (name, text) if address]
    if code:
        words.append(ERRNO_TEXTS.get(code, f"Unknown error {code}"))
    return Failure(": ".join(filter(None, words)), code or None)
