"""Where does the dynamic loader of this process keep its list of libraries?

Found through memory only: program headers → DT_DEBUG → ``struct r_debug`` → ``struct link_map`` chain (glibc's
<link.h>; musl has the same public part).  ``&_r_debug`` from the debugger's symbols is not used: with a copy relocation
it is a truncated copy in the executable, and from outside a container it belongs to another file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Optional

from ...errors import CorruptError, DlwhyError, FaultError, OmittedFileError, UnsupportedError
from ...lists import Walk
from ...memory import Memory
from ...model import Problem
from ...paths import base_name
from ...target import Capability, Target
from ..auxv import AT_BASE, AT_PHDR, AT_PHENT, AT_PHNUM
from ..elf.image import DT_DEBUG, PT_DYNAMIC, PT_INTERP, ElfImage

#: A longer list is corrupt: the kernel's vm.max_map_count, 65,530, allows no more libraries of four mappings each.
MAX_LIBRARIES = 1 << 14

STATIC = "the program is statically linked: it has no dynamic loader whose state could be read"
NOT_YET = "the dynamic loader has not run yet: no library is loaded"

ELF_MAGIC = b"\x7fELF"
PAGE_BYTES = 4096
#: How far below an address its image's header is looked for: prelink's libc.so.6 for x86-64 spans 4 MB.
MAX_IMAGE_BYTES = 8 << 20

R_STATES = {0: "RT_CONSISTENT", 1: "RT_ADD", 2: "RT_DELETE"}


class PublicMap:
    """The public part of a ``struct link_map``; its name is read on demand."""

    __slots__ = ("_memory", "_name", "_name_address", "address", "l_addr", "l_ld")

    def __init__(self, memory: Memory, address: int, l_addr: int, name_address: int, l_ld: int) -> None:
        self._memory = memory
        self._name: Optional[str] = None
        self._name_address = name_address
        self.address = address
        self.l_addr = l_addr
        self.l_ld = l_ld

    @property
    def l_name(self) -> str:
        """Return the name; empty if there is none or it cannot be read."""
        if self._name is None:
            self._name = read_name(self._memory, self._name_address)
        return self._name


def _follow_public(memory: Memory, head: int) -> Walk[PublicMap]:
    """Follow the base namespace's list only as far as needed: ld.so and libc are near its head."""

    def read(address: int, before: int) -> tuple[PublicMap, int]:
        l_addr, l_name, l_ld, l_next, l_prev = memory.words(address, 5)
        # One damaged link does not end the list.
        if l_prev != before and (memory.try_words(l_next, 5) or ())[4:] != (address,):
            raise CorruptError(f"l_prev is {l_prev:#x}, not {before:#x}: the libraries from here on are not known")
        return PublicMap(memory, address, l_addr, l_name, l_ld), l_next

    return Walk(head, read, limit=MAX_LIBRARIES, subject="the list", noun="library")


class Rendezvous(NamedTuple):
    """The loader's rendezvous: ``struct r_debug`` and the base namespace's list."""

    main: ElfImage
    r_debug: int
    r_state: int
    list: Walk[PublicMap]

    @property
    def maps(self) -> tuple[PublicMap, ...]:
        """Return the libraries of the list."""
        return tuple(self.list.all())

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return why the list could not be followed to its end."""
        reason = self.list.reason
        return () if reason is None else (Problem(f"link_map {self.list.address:#x}", reason),)

    @property
    def complete(self) -> bool:
        """Return True if the list could be followed to its end."""
        return self.list.is_complete


def find_rendezvous(memory: Memory) -> Rendezvous:
    """Find the loader's rendezvous.

    :raises UnsupportedError: if the process has no dynamic loader, or it has not run yet.
    :raises CorruptError: if the program's own headers contradict themselves.
    """
    main = _find_main_image(memory)
    r_debug = _find_r_debug(main)
    word = memory.pointer_size
    try:
        r_map = memory.pointer(r_debug + word)
        r_state = memory.unsigned(r_debug + 3 * word, 4)
    except FaultError as error:
        raise CorruptError(f"struct r_debug cannot be read ({error})") from error
    if r_map == 0:
        raise not_yet(memory.target)
    return Rendezvous(main, r_debug, r_state, _follow_public(memory, r_map))


def not_yet(target: Target) -> UnsupportedError:
    """Return the refusal of a process whose loader has not run; only a live one can be continued."""
    is_live = Capability.LIVE in target.capabilities
    return UnsupportedError(NOT_YET + ("; continue to main, then ask again" if is_live else ""))


def has_loader_run(memory: Memory) -> bool:
    """Return True if the loader has loaded the program's libraries, and is not about to change its list.

    :raises UnsupportedError: if the process has no dynamic loader.
    :raises CorruptError: if the program's own headers contradict themselves.
    """
    try:
        return find_rendezvous(memory).r_state == 0
    except UnsupportedError as error:
        if str(error).startswith(NOT_YET):
            return False
        raise


def _find_main_image(memory: Memory) -> ElfImage:
    failures: dict[str, DlwhyError] = {}
    for image in _main_image_candidates(memory, failures):
        if image.find_header(PT_DYNAMIC) is not None:
            return image
        if image.find_header(PT_INTERP) is None:
            raise UnsupportedError(STATIC)
    for failure in failures.values():
        if isinstance(failure, OmittedFileError) and not failure.has_remedy:
            raise UnsupportedError(
                f"the core has neither the program's headers nor its data, so nothing shows whether {failure.path} is "
                "its file (coredump_filter 0x33 records both)"
            )
        if isinstance(failure, OmittedFileError):
            raise UnsupportedError(
                f"the core lacks the program's headers, and {failure.path} {failure.why}: name the program (in the "
                "shell --exe FILE, in Python executable=FILE, in gdb file FILE, in LLDB target create FILE --core CORE)"
            )
    reasons = "".join(f"; by {way}: {failure}" for way, failure in failures.items())
    raise CorruptError(f"the main program's ELF headers cannot be read{reasons}")


def _main_image_candidates(memory: Memory, failures: dict[str, DlwhyError]) -> Iterator[ElfImage]:
    auxv = memory.target.auxv()
    if AT_PHDR in auxv:
        try:
            yield ElfImage.from_program_headers(memory, auxv[AT_PHDR], auxv.get(AT_PHNUM, 0), auxv.get(AT_PHENT, 0))
        except DlwhyError as error:
            failures["AT_PHDR"] = error
    for module in memory.target.modules()[:1]:
        try:
            yield ElfImage.at(memory, module.base)
        except DlwhyError as error:
            failures["the debugger's module list"] = error


def _find_r_debug(main: ElfImage) -> int:
    value = main.dynamic.get(DT_DEBUG)
    if value:
        return value
    try:
        # ld.so itself was started as the program: `ld.so ./prog`.
        symbol = main.find_symbol("_r_debug")
    except DlwhyError as error:
        if main.find_header(PT_INTERP) is None:
            message = "whether the program is statically linked, or the dynamic loader itself, is not known"
            raise CorruptError(f"{message}: {error}") from error
        symbol = None  # a program that has a loader has no _r_debug of its own
    if symbol:
        return symbol[0]
    if main.find_header(PT_INTERP) is None:
        raise UnsupportedError(STATIC)
    if value is None:
        raise UnsupportedError("the program has no DT_DEBUG entry: its loader's list cannot be found")
    raise not_yet(main.memory.target)


def read_name(memory: Memory, address: int) -> str:
    """Read a library's name; empty if it is absent or cannot be read."""
    if not address:
        return ""
    try:
        return memory.c_string(address)
    except DlwhyError:
        return ""


def image_of(memory: Memory, entry: PublicMap) -> ElfImage:
    """Read the image of a library.

    Its header is at ``l_addr``, unless prelink(8) has given the file addresses of its own: ``l_addr`` is then how far
    it was moved, mostly 0, and the header is looked for below its dynamic section.

    :raises DlwhyError: if it cannot be read.
    """
    try:
        return ElfImage.at(memory, entry.l_addr)
    except DlwhyError as error:
        image = _image_around(memory, entry.l_ld)
        dynamic = image.find_header(PT_DYNAMIC) if image else None
        if image is None or dynamic is None or image.bias != entry.l_addr or image.address(dynamic.vaddr) != entry.l_ld:
            raise error
        return image


def _image_around(memory: Memory, address: int) -> Optional[ElfImage]:
    """Find the image whose segments contain an address; None if its header is not in memory.

    :raises OmittedFileError: if a core lacks the header, and so does this machine.
    """
    omitted: Optional[OmittedFileError] = None
    top = address - address % PAGE_BYTES
    for base in range(top, max(top - MAX_IMAGE_BYTES, 0), -PAGE_BYTES):
        try:
            if memory.read(base, len(ELF_MAGIC)) != ELF_MAGIC:
                continue
            image = ElfImage.at(memory, base)
        except OmittedFileError as error:
            omitted = omitted or error
        except DlwhyError:
            continue  # a page that is not there has no header; without any, the caller refuses the target
        else:
            if image.contains(address):
                return image
            break
    if omitted is not None:
        raise omitted
    return None


def find_rtld(memory: Memory, start: Rendezvous) -> Optional[tuple[PublicMap, ElfImage]]:
    """Find ld.so among the libraries; None if its ELF header is not in memory.

    Its base is AT_BASE, unless ld.so was started as the program, or is prelinked (Linux then says how far it was
    moved); then it is recognised by its name, and by ``struct r_debug``, which is a variable of it.  If the list does
    not lead to it, because a link map is damaged, the entry returned has the address 0.

    :raises UnsupportedError: if a core lacks its headers, and so does this machine.
    """
    base = memory.target.auxv().get(AT_BASE, 0)
    for is_rtld in (lambda entry: base and entry.l_addr == base, _is_named_as_rtld):
        for entry in filter(is_rtld, start.list):
            try:
                return entry, image_of(memory, entry)
            except OmittedFileError as error:
                raise lacks_loader(error.path, error.why) from error
            except DlwhyError:
                continue  # AT_BASE or r_debug can lead to it; if nothing does, the caller refuses the target
    try:
        image: Optional[ElfImage] = ElfImage.at(memory, base)
    except DlwhyError:
        try:
            image = _image_around(memory, start.r_debug)
        except OmittedFileError as error:
            raise lacks_loader(error.path, error.why) from error
    if image is None:
        return None
    named = next(filter(_is_named_as_rtld, start.list), None)
    return named or PublicMap(memory, 0, image.bias, 0, 0), image


def lacks_loader(path: str, why: str) -> UnsupportedError:
    """Return the refusal of a core that lacks the headers of the dynamic loader, whose file is not here either."""
    return UnsupportedError(
        f"the core lacks the headers of the dynamic loader, and {path} {why}: name the folder with the libraries of "
        "the process (in the shell --sysroot DIR, in Python sysroot=DIR, in gdb set sysroot DIR)"
    )


def _is_named_as_rtld(entry: PublicMap) -> bool:
    return base_name(entry.l_name).startswith(("ld-", "ld.so", "ld64"))
