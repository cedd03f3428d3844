"""Why did a dlopen fail, in dlerror's words?

No breakpoint marks the end of an open, but all errors of ld.so pass through two functions, which leave by longjmp:

    _dl_signal_error (int errcode, const char *objname, const char *occasion, const char *errstring)
    _dl_signal_exception (int errcode, struct dl_exception *exception, const char *occasion)

``struct dl_exception`` begins with ``const char *objname; const char *errstring`` (include/dlfcn.h).  Since glibc 2.25
(9e78f6f6e713, bug 16628) libc has them, and ld.so calls libc's through its PLT; since 2.37 (ee1ada1bdb80, bug 25486)
they are only in ld.so; before 2.25 no dynamic symbol table has them.  dlerror assembles the text (dlfcn/dlerror.c) and
would translate it.

If no breakpoint can be set there, the text is still where libc stores it for dlerror, until the thread's next dlopen,
dlclose or dlsym: since 2.34 (a23c28ec0d1c) in the thread-local and exported ``__libc_dlerror_result``, which points to

    struct dl_action_result { int errcode; char errstring_source; bool returned; const char *objname; char *errstring; }

(dlfcn/libc_dlerror_result.h).  dlerror replaces errstring by the complete text, frees objname, and then sets
``returned``.  Errors of libc's own opens (elf/dl-libc.c) are not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

from ...errors import DlwhyError
from ...memory import Memory
from ...paths import base_name
from ...target import Hit
from ..elf.image import MAX_NAME, ElfImage
from ..state.process import GlibcProcess
from .callers import Callers
from .entry_points import find_function

SIGNAL_ERROR, SIGNAL_EXCEPTION = "_dl_signal_error", "_dl_signal_exception"

#: The text can end with the name of a symbol: as long as the longest one that is read.
_MAX_TEXT = MAX_NAME
#: Until glibc 2.26 (removed by 3012cfb0d266) internal functions of i386 take their arguments in registers.
_I386_FLOOR = (2, 27)

#: strerror's texts for the errors of opening and mapping a file (sysdeps/gnu/errlist.h, sysdeps/unix/sysv/linux).
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


#: How dlsym's errors name the program if it has no argv[0] (DSO_FILENAME of include/link.h).
_NAMELESS_PROGRAM = "<main program>"


class OpenFailure(NamedTuple):
    """dlerror's text for a failed open, None if it cannot be read, and the errno that it includes, None without one."""

    text: Optional[str]
    errno: Optional[int]


def find_raisers(
    libc: Optional[ElfImage], rtld: ElfImage, version: Optional[tuple[int, ...]], *, in_rtld: bool
) -> Mapping[int, str]:
    """Find the functions that raise the errors of ld.so, by their addresses; empty if none is usable.

    :param in_rtld: whether the debugger keeps breakpoints in ld.so.
    """
    if rtld.memory.platform.arch == "i386" and (version is None or version < _I386_FLOOR):
        return {}
    # If libc has them, ld.so's own are used only until libc is loaded.
    images = (libc, rtld) if in_rtld else (libc,)
    found = {find_function(images, name): name for name in (SIGNAL_ERROR, SIGNAL_EXCEPTION)}
    return {address: name for address, name in found.items() if address is not None}


def read_failure(callers: Callers, hit: Hit, memory: Memory, function: str) -> OpenFailure:
    """Read the error that a thread at one of these functions raises."""
    try:
        code = callers.argument(hit, memory, 0)
        if function == SIGNAL_ERROR:
            name, text = callers.argument(hit, memory, 1), callers.argument(hit, memory, 3)
        else:
            name, text = memory.words(callers.argument(hit, memory, 1), 2)
        return make_failure(memory, code & 0xFFFF_FFFF, name, text)
    except DlwhyError:
        return OpenFailure(None, None)  # unknown, and a later error does not take its place


def make_failure(memory: Memory, code: int, name: int, text: int) -> OpenFailure:
    """Assemble an error as dlerror does.

    :param code: the errno, 0 without one.
    :param name: the address of the object's name, 0 without one.
    :param text: the address of the message, 0 without one.
    :raises DlwhyError: if one of them cannot be read.
    """
    words = [memory.c_string(address, _MAX_TEXT) for address in (name, text) if address]
    if code:
        words.append(ERRNO_TEXTS.get(code, f"Unknown error {code}"))
    return OpenFailure(": ".join(filter(None, words)), code or None)


class StoredErrors:
    """The errors that libc stores for dlerror, one for each thread."""

    def __init__(self, offset: int) -> None:
        """Create a reader.

        :param offset: of the pointer to the stored error, in libc's TLS block.
        """
        self._offset = offset

    @classmethod
    def of(cls, libc: Optional[ElfImage]) -> Optional[StoredErrors]:
        """Find where libc stores them, None if it does not export that."""
        try:
            symbol = libc.find_symbol("__libc_dlerror_result") if libc else None
        except DlwhyError:
            return None  # then each error is unknown
        return cls(symbol[0] - libc.bias) if symbol and libc else None

    def find(self, process: GlibcProcess, tid: int) -> Optional[OpenFailure]:
        """Find the error with which a thread's last open failed, None if unknown.

        An error that names a loaded library or the program is from a dlsym that failed since then.
        """
        try:
            found = self._read(process, tid)
            argv0 = _argv0(process)
        except DlwhyError:
            return None  # unknown: neither is an error read, nor can one of a dlsym be told apart
        if found is None or not process.graph.complete:
            return None
        name, failure = found
        known = {link_map.name for link_map in process.graph.by_address.values()}
        if name is None:
            text = failure.text or ""
            named = (each for each in known if each and text.startswith(f"{each}: "))
            subject, colon, _ = text.partition(": ")
            name = next(named, subject if colon else "")
        is_of_program = base_name(name) in (
            "",
            _NAMELESS_PROGRAM,
            base_name(process.program),
            base_name(argv0),
        )
        return None if is_of_program or name in known else failure

    def _read(self, process: GlibcProcess, tid: int) -> Optional[tuple[Optional[str], OpenFailure]]:
        """Read the object that a thread's last error names, None if only its text names one, and the error."""
        from ..loader.threads import find_thread_pointers
        from ..loader.tls_blocks import find_static_block

        memory, private = process.memory, process.private
        pointers = find_thread_pointers(memory, process.layouts, process.graph, private.rtld_global, [])
        link_map = process.find_map(private.libc.bias) if private.libc else None
        if tid not in pointers or link_map is None:
            return None
        result = memory.pointer(find_static_block(memory.platform, pointers[tid], link_map) + self._offset)
        # All bits are set if there was no memory for it.
        if result in (0, memory.platform.address_mask):
            return None
        code, was_returned = memory.unsigned(result, 4), memory.unsigned(result + 5, 1)
        name, text = memory.words(result + 8, 2)
        if not text:
            return None
        if was_returned:
            return None, OpenFailure(memory.c_string(text, _MAX_TEXT), code or None)
        failure = make_failure(memory, code, name, text)
        return memory.c_string(name, _MAX_TEXT), failure


def _argv0(process: GlibcProcess) -> str:
    """Read the program's argv[0] from ld.so; empty if ld.so does not export it.

    :raises DlwhyError: if it cannot be read.
    """
    symbol = process.private.rtld.find_symbol("_dl_argv")
    memory = process.memory
    return memory.c_string(memory.pointer(memory.pointer(symbol[0])), _MAX_TEXT) if symbol else ""
