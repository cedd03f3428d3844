"""What is known where no library fits what the user has asked for?

That none fits is certain only if all libraries and all their names are known.  An address that lies in no library is
somewhere else, and the handle of a closed library can still show which one it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from ...charset import decode
from ...errors import FaultError, IncompleteSearchError, NotFoundError
from ...memory import Memory
from ...model import Problem
from ...paths import base_name
from ..dumps.mappings import Mapping, mappings_of
from .matching import UnmatchedAddressError
from .process import GlibcProcess

NOT_WHOLE = "the list of libraries is not whole"
_NOT_ALL_NAMES = "not all names of libraries are known"

#: Words at the start of struct link_map: l_real and l_libname have been the sixth and the eighth since glibc 2.3.
_L_REAL, _L_LIBNAME = 5, 7
#: More bytes than nearly all names have; a longer one is not recalled.
_NAME_WINDOW = 256


def explain_unfound(process: GlibcProcess, error: NotFoundError) -> NotFoundError:
    """Return a failure to find a library with what is known about it: what an address is, and whether all was read."""
    if isinstance(error, UnmatchedAddressError):
        error = error.with_detail(_describe(process, error))
    doubt = _find_doubt(process)
    if doubt:
        error = incomplete(error, doubt)
    error.add(process.all_problems())
    return error


def incomplete(error: NotFoundError, doubt: str) -> IncompleteSearchError:
    """Return a failure to find a library that is not certain."""
    result = IncompleteSearchError(f"{error}; but {doubt}")
    result.near = error.near
    return result


def unfound_in_motion(error: NotFoundError, racy: Sequence[Problem]) -> NotFoundError:
    """Return a failure to find a library, with the problems that were met last.

    :param racy: if the loader of a running process never stood still, the failure is not certain.
    """
    if any(problem.where == "racy" for problem in racy) and not isinstance(error, IncompleteSearchError):
        error = incomplete(error, NOT_WHOLE)
    error.add(racy)
    return error


def _find_doubt(process: GlibcProcess) -> str:
    """Return why it is not certain that no library fits, empty if it is."""
    if not process.graph.complete:
        return NOT_WHOLE
    if process.has_unread_names():
        return _NOT_ALL_NAMES
    return ""


def _describe(process: GlibcProcess, error: UnmatchedAddressError) -> str:
    memory, address = process.memory, error.address
    library = _recall(memory, address)
    if library is not None and not process.graph.complete:
        return f"{address:#x} is, or was, the handle of {library}"
    if library is not None:
        return f"{address:#x} was the handle of {library}, which has been unloaded since"
    if not error.is_handle:
        return f"{error.address:#x} lies in no library: {_describe_place(memory, address)}"
    if not address:
        return "it is NULL, no library's handle"
    link_map = process.find_map(address)
    where = f"it lies in {process.name(link_map)}" if link_map is not None else _describe_place(memory, address)
    return f"{address:#x} is no library's handle, or no longer (closed since?): {where}"


def _describe_place(memory: Memory, address: int) -> str:
    """Return what is at an address that lies in no library."""
    mappings = mappings_of(memory.target)
    if mappings is not None:
        mapping = mappings.at(address)
        return "nothing is mapped there" if mapping is None else _mapping_words(mapping)
    if memory.try_read(address, 1) is not None:
        return "it is memory of something else"
    return "nothing that could be read is there"


def _mapping_words(mapping: Mapping) -> str:
    if mapping.is_of_file:
        gone = ", which has been deleted" if mapping.is_deleted else ""
        return f"{mapping.file}{gone}, is mapped there, but not loaded as a library"
    if mapping.path:
        return f"{mapping.path} is there"
    return f"memory without a file is mapped there ({mapping.permissions})"


def _recall(memory: Memory, address: int) -> Optional[str]:
    """Read the name of the library whose freed link map is at an address; None if that is no longer to be read.

    malloc reuses the first words of a freed block, l_addr, l_name and l_ld among them.  The name by which the library
    was opened stands at the end of the block.
    """
    try:
        words = memory.words(address, _L_LIBNAME + 1)
        if words[_L_REAL] != address:
            return None
        place = memory.pointer(words[_L_LIBNAME])  # struct libname_list begins with the pointer to the name
        raw = memory.read(place, _NAME_WINDOW)
    except FaultError:
        return None  # the freed block is gone; the address is described without a name
    name, _, _ = raw.partition(b"\0")
    known = name[: _intact_length(memory, address, place, len(name))]
    text = decode(known)
    if not text or not text.isprintable():
        return None
    return base_name(text) if known == name else f"a library whose name begins with {base_name(text)}"


def _intact_length(memory: Memory, block: int, place: int, length: int) -> int:
    """Return how many bytes of a name at the end of a freed block malloc has left as they were.

    It writes the block's size behind the block, into a word that the block's user may use, too.
    """
    word = memory.pointer_size
    start = block - 2 * word
    for end in range(place - place % (2 * word), place + length + word, 2 * word):
        if end + word > place and memory.try_unsigned(end, word) == end - start:
            return max(0, end - place)
    return length
