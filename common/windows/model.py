"""Which values describe DLLs, files and the machine?

Values as in `model`: frozen, comparable, without a reference to a target.  Structure and field names are NT's own.
"""

from __future__ import annotations

import bisect
import enum
from collections.abc import Mapping
from typing import NamedTuple, Optional

from ..model import Evidence, LoaderInfo, Outcome, Problem, TargetInfo, ThreadRef
from ..paths import windows_base_name

# The first build of each version of NT since XP, and its major and minor number.
_FIRST_BUILDS: tuple[tuple[int, int, int], ...] = (
    (2600, 5, 1),
    (3790, 5, 2),
    (6000, 6, 0),
    (7600, 6, 1),
    (9200, 6, 2),
    (9600, 6, 3),
    (10240, 10, 0),
)


class SystemVersion(NamedTuple):
    """A version of Windows as the target reports it; ``build`` is 0 if unknown."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        """Return the version as Windows writes it."""
        return f"{self.major}.{self.minor}.{self.build}"

    @classmethod
    def of_build(cls, build: int) -> SystemVersion:
        """Return the version that a build is of."""
        index = bisect.bisect_right(_FIRST_BUILDS, (build + 1,)) - 1
        _, major, minor = _FIRST_BUILDS[max(index, 0)]
        return cls(major, minor, build)


class ListedImage(NamedTuple):
    """A module as the debugger or dump lists it; ``size`` in bytes, ``timestamp``, ``checksum`` as in its PE header."""

    path: str
    base: int
    size: int
    timestamp: int = 0
    checksum: int = 0


class UnloadedImage(NamedTuple):
    """A module that was unloaded; ``sequence`` counts the loader's unload events, None if unknown."""

    name: str
    base: int
    size: int
    timestamp: int
    checksum: int
    sequence: Optional[int] = None


class LoaderRule(enum.Enum):
    """The rules by which a loader counts and unloads.

    XP: 16-bit counts along the import tables, up to 2003.  WIN7: the same, Vista and 7.  WIN8: the graph of Windows 8
    to 11.  WINE: 16-bit counts along the edges of the graph.
    """

    XP = "xp"
    WIN7 = "win7"
    WIN8 = "win8"
    WINE = "wine"


class DllHoldKind(enum.Enum):
    """Why FreeLibrary does not unload a DLL, strongest first."""

    MAIN_PROGRAM = "main-program"
    STATIC_IMPORT = "static-import"
    PINNED = "pinned"
    LOAD_COUNT = "load-count"
    DEPENDENCY = "dependency"
    LOADING = "loading"
    UNLOADING = "unloading"


class HolderKind(enum.Enum):
    """Whose a load is."""

    THREAD = "thread"
    COM = "com"
    DELAY_LOAD = "delay-load"
    INTERPRETER = "interpreter"


class LoadHolder(NamedTuple):
    """Somebody whose load a DLL has; a FreeLibrary by anybody else would crash them.

    :param address: where a thread began; of COM's table, a delay-load descriptor's slot, an extension module's entry.
    :param thread: the thread that began in the DLL.
    :param library: the DLL that has delay-loaded it, or the interpreter.
    :param runtime: the interpreter's kind: ``python``, ``node``, ``jvm``, ``lua`` or ``ruby``.
    :param frees_itself: whether the DLL imports FreeLibraryAndExitThread (a thread), exports DllCanUnloadNow (COM), or
        the importer is linked with /DELAY:UNLOAD (a delay load); None if unknown.
    """

    kind: HolderKind
    address: int
    thread: Optional[ThreadRef] = None
    library: Optional[str] = None
    runtime: Optional[str] = None
    frees_itself: Optional[bool] = None


class DllHold(NamedTuple):
    """One reason why a DLL stays loaded.

    Which of the optional members are set depends on ``kind``: ``origin`` for pins (``loader``, ``explicit``,
    ``inherited``, ``shim``, ``verifier``, ``clr`` or ``unknown``), ``total`` for load counts, ``chain`` (names from the
    root to this DLL) for dependencies and static imports; ``root_kinds`` says why the first DLL of the chain stays.
    ``holders`` are those of the loads that memory shows, None if they were not looked for.
    """

    kind: DllHoldKind
    evidence: tuple[Evidence, ...] = ()
    origin: Optional[str] = None
    total: Optional[int] = None
    chain: tuple[str, ...] = ()
    root_kinds: tuple[DllHoldKind, ...] = ()
    holders: Optional[tuple[LoadHolder, ...]] = None


class ListPositions(NamedTuple):
    """A DLL's positions in the loader's three lists, from 0; None if it is not in a list."""

    load: Optional[int] = None
    memory: Optional[int] = None
    initialization: Optional[int] = None


class Dll(NamedTuple):
    """A loaded DLL and the verdict on it; a brief one lacks fields, relations and all holds but the strongest.

    :param start: the image's range is from ``start`` up to ``end``, exclusive.
    :param loader: ``native`` or ``wow64`` (the 32-bit loader of a process on 64-bit Windows).
    :param ldr_entry: address of its LDR_DATA_TABLE_ENTRY.
    :param ddag_node: address of its LDR_DDAG_NODE, 0 if there is none.
    :param fields: members of these structures as numbers, None for an unreadable one.
    :param load_reason: an LDR_DLL_LOAD_REASON, from Windows 8 on.
    :param ddag_state: an LDR_DDAG_STATE, from Windows 8 on.
    :param imports: names of the DLLs that it imports, None if unknown; ``importers`` likewise.
    :param import_cycle: the other DLLs of an import cycle, which are loaded and unloaded as one, from Windows 8 on;
        None if unknown.
    :param held: whether it stays, None if unknown.
    :param load_count: the count by which FreeLibrary decides; None if it is pinned, or the count is unknown.
    :param loadlibrary_count: the part of ``load_count`` that LoadLibrary contributed; None likewise.
    """

    name: str
    path: str
    base: int
    start: int
    end: int
    loader: str
    ldr_entry: int
    ddag_node: int
    list_positions: ListPositions
    fields: Mapping[str, Optional[int]]
    load_reason: Optional[str]
    ddag_state: Optional[str]
    first_loaded_by: Optional[str]
    imports: Optional[tuple[str, ...]]
    importers: Optional[tuple[str, ...]]
    import_cycle: Optional[tuple[str, ...]]
    held: Optional[bool]
    holds: tuple[DllHold, ...] = ()
    holds_omitted: int = 0
    load_count: Optional[int] = None
    loadlibrary_count: Optional[int] = None


class LoaderRules(NamedTuple):
    """The rules of one of the process's loaders, and the evidence for them."""

    loader: str
    rule: LoaderRule
    reason: str


class DllState(NamedTuple):
    """The answer of ``dllstate``: DLLs with their verdicts.

    :param process_exiting: whether the process is exiting, None if unknown.
    :param lock_owner: the id of the thread that owns the native loader's lock, 0 if none does, None if unknown.
    """

    target: TargetInfo
    loader: LoaderInfo
    rules: tuple[LoaderRules, ...]
    dlls: tuple[Dll, ...]
    process_exiting: Optional[bool] = None
    lock_owner: Optional[int] = None
    asked: Optional[str] = None
    problems: tuple[Problem, ...] = ()


class DllStep(NamedTuple):
    """A DLL that must be freed ``total`` times before another one can be unloaded."""

    library: str
    total: int


class ImportCycleAlternative(NamedTuple):
    """What the same number of frees would do through another DLL of an import cycle.

    ``would_unload`` names the DLLs that would be unloaded, ``would_pin`` the ones that would be pinned for good because
    their count would fall below 0.
    """

    library: str
    would_unload: tuple[str, ...]
    would_pin: tuple[str, ...]


class DllPlan(NamedTuple):
    """What FreeLibrary would do when called ``close_count`` times on ``library``.

    :param load_count: the current count; None if it is pinned, or the count is unknown.
    :param loadlibrary_count: the part of ``load_count`` that LoadLibrary contributed; None likewise.
    :param load_count_after: the count after the calls; None likewise.
    :param excess_closes: the number of calls that lower the importers' part of the count, None if unknown.
    :param refusal: why the last call would do nothing, None if it has an effect.
    :param unloads: the unloaded DLLs in order of DLL_PROCESS_DETACH.
    :param gets_process_detach: base addresses of the DLLs that get DLL_PROCESS_DETACH.
    :param kept: the DLL and its imports that stay, with their holds after the calls.
    :param may_unload_more: names of the unloaded DLLs that import FreeLibrary.
    :param import_cycles: the import cycles in its closure, each from the DLL through which it is entered.
    :param import_cycle_alternatives: the effect of entering a cycle elsewhere, if its DLLs have counts of their own
        (before Windows 8, and in Wine).
    :param unload_bytes: the total SizeOfImage of ``unloads``, in bytes.
    :param steps: what else must be freed to unload it.
    :param blocker: the permanent DLL that keeps it, None if there is none.
    :param holders: those whose loads of ``library`` memory shows, None if they were not looked for.
    """

    library: Dll
    rule: LoaderRule
    load_count: Optional[int]
    loadlibrary_count: Optional[int]
    close_count: int
    outcome: Outcome
    load_count_after: Optional[int] = None
    excess_closes: Optional[int] = 0
    refusal: Optional[str] = None
    unloads: tuple[Dll, ...] = ()
    gets_process_detach: tuple[int, ...] = ()
    order_algorithm: Optional[str] = None
    order_certain: bool = True
    kept: tuple[Dll, ...] = ()
    may_unload_more: tuple[str, ...] = ()
    import_cycles: tuple[tuple[str, ...], ...] = ()
    import_cycle_alternatives: tuple[ImportCycleAlternative, ...] = ()
    unload_bytes: int = 0
    steps: tuple[DllStep, ...] = ()
    blocker: Optional[Dll] = None
    holders: Optional[tuple[LoadHolder, ...]] = None

    @property
    def is_unloaded(self) -> bool:
        """Return True if the freed DLL itself is unloaded."""
        return any(each.ldr_entry == self.library.ldr_entry for each in self.unloads)


class DllPlans(NamedTuple):
    """The answer of ``dllplan``: one plan, or one for each DLL that LoadLibrary has loaded, the largest unload first.

    Of several, what each says of its DLL is complete, but not what stays and what else could be done.
    """

    target: TargetInfo
    loader: LoaderInfo
    rules: tuple[LoaderRules, ...]
    plans: tuple[DllPlan, ...]
    asked: Optional[str] = None
    problems: tuple[Problem, ...] = ()


class Pointer(NamedTuple):
    """A word that points into an unloaded module: in a register, or on a stack at ``address``.

    ``in_exception`` says that the register is one of the exception's own context, not of the thread's.
    """

    thread: ThreadRef
    value: int
    register: Optional[str] = None
    address: Optional[int] = None
    in_exception: bool = False


class CrashWord(NamedTuple):
    """An address that an exception had to do with, and the module it lies in.

    :param role: ``instruction`` (where it was raised), ``data`` (what could not be accessed), ``object`` (the first
        word of what a register points at, as the address of a table of virtual functions).
    :param register: of an ``object``, None if it is the inaccessible data itself.
    :param module: None if the address lies in no module that is known.
    :param unloaded: whether that module is unloaded.
    """

    role: str
    value: int
    register: Optional[str] = None
    module: Optional[str] = None
    offset: Optional[int] = None
    unloaded: Optional[bool] = None


class CrashCaller(NamedTuple):
    """The probable caller of the code at which an exception was raised.

    The return address is on the stack at ``stack_address``; if that is None, in ARM64's link register.
    """

    return_address: int
    stack_address: Optional[int]
    module: str
    offset: int


class Crash(NamedTuple):
    """The exception of a dump or process, and what it has to do with modules.

    :param access: ``read``, ``write`` or ``execute`` of an access violation.
    :param caller: only of one in an unloaded module or in none; None if unknown.
    """

    thread: ThreadRef
    code: int
    address: int
    access: Optional[str]
    words: tuple[CrashWord, ...]
    caller: Optional[CrashCaller] = None


class GoneDll(NamedTuple):
    """An unloaded module, and the offset of an address in it.

    :param sources: ``loader`` (its own record of unloads), ``module-list`` (the dump's or the debugger's).
    :param confidence: None without an address; ``certain``; ``candidate`` if several unloaded modules were there;
        ``likely`` if a module is loaded there now.
    """

    image: UnloadedImage
    sources: tuple[str, ...]
    offset: Optional[int] = None
    confidence: Optional[str] = None
    pointers: tuple[Pointer, ...] = ()
    pointers_omitted: int = 0


class GoneDlls(NamedTuple):
    """The answer of ``dllgone``.

    :param loaded_at_address: the module that is at the address now.
    :param overwritten_events: how many unload events the loader has overwritten, None if unknown.
    :param records: what recorded unloads could be read: ``loader``, ``module-list``.
    :param crash: the exception; with an address, only if it is the exception's.
    """

    target: TargetInfo
    loader: LoaderInfo
    unloaded: tuple[GoneDll, ...]
    address: Optional[int] = None
    loaded_at_address: Optional[str] = None
    overwritten_events: Optional[int] = None
    records: tuple[str, ...] = ()
    crash: Optional[Crash] = None
    asked: Optional[str] = None
    problems: tuple[Problem, ...] = ()


class FileView(NamedTuple):
    """A view of a file in a process.

    :param end: address of the last byte.
    :param vad: address of its _MMVAD, None if it is one of the kernel's own images.
    :param protection: None likewise.
    :param image: whether it is mapped as an image, else as data.
    :param commit_pages: the commit charge in pages, None if there is none.
    :param wow64: whether the process runs 32-bit code on x64.
    """

    pid: int
    process_name: str
    base: int
    end: int
    vad: Optional[int]
    image: bool
    protection: Optional[str]
    commit_pages: Optional[int] = None
    wow64: bool = False


class OpenFile(NamedTuple):
    """A file object of the file: how it was opened, and whether its sharing mode still restricts others.

    :param address: of the _FILE_OBJECT.
    :param access: as ``RWD``, ``-`` for an absent right.
    :param sharing: as ``rwd``, likewise.
    :param open: whether a handle is open, so that the sharing mode is enforced.
    :param fast_ref: the count that was masked off the section's pointer to it; None if it was not found through a
        section, or this Windows keeps a plain pointer.
    """

    address: int
    access: str
    sharing: str
    open: bool
    delete_pending: bool
    fast_ref: Optional[int] = None


class Opener(NamedTuple):
    """An open handle of the file, or with ``section`` of a section of it; ``granted_access`` is an ACCESS_MASK."""

    pid: int
    process_name: str
    handle: int
    granted_access: int
    file: OpenFile
    section: bool = False


class SectionUse(NamedTuple):
    """A section of the file, image or data, and what still needs it.

    ``in_use`` says that it can prevent operations; an image section without views and section references, and a data
    section without user references, are only cached.  The other numbers are members of the _CONTROL_AREA at
    ``control_area``.
    """

    control_area: int
    image: bool
    section_references: int
    mapped_views: int
    user_references: int
    writable_references: Optional[int]
    in_use: bool


class Allowed(enum.Enum):
    """Whether an operation is possible.  PROBABLY: nothing known prevents it, but not everything is known."""

    YES = "yes"
    NO = "no"
    PROBABLY = "probably"
    DEPENDS = "depends"


class Status(NamedTuple):
    """How an operation fails: NTSTATUS and Win32 error, with their names."""

    ntstatus: int
    name: str
    win32_error: int
    win32_error_name: str


class FileOperation(NamedTuple):
    """Whether an operation on the file is possible; ``status`` if it fails, ``reason`` in one sentence."""

    name: str
    allowed: Allowed
    status: Optional[Status]
    reason: str


class MappedFile(NamedTuple):
    """A file that processes map or have open, and the operations that are possible on it.

    :param file_name: the file object's name, relative to its volume; None if unreadable.
    :param file_name_source: ``file-object``; if its name is unreadable, ``loader`` (of a process it is mapped in) or
        ``module-list`` (the kernel's); None if no name is known.
    :param file_name_address: the address of the name's characters, even if unreadable; None without a file object.
    :param device_object: the address of the volume's _DEVICE_OBJECT; None likewise.
    :param file: the section's file object, None for a kernel image that the boot loader has loaded.
    :param sections: image or data or both.
    :param evidence: the members behind the verdicts.
    :param image_bytes: the size of its mapped image, None if it is mapped as none.
    :param timestamp: TimeDateStamp of the image's PE header, None if that is not in memory, or was not read.
    :param link_time: the same as seconds since 1970; None if the header has a hash instead, or that is unknown.
    """

    file_name: Optional[str]
    file_name_source: Optional[str]
    file_name_address: Optional[int]
    device_object: Optional[int]
    file: Optional[OpenFile]
    sections: tuple[SectionUse, ...]
    mappings: tuple[FileView, ...]
    openers: tuple[Opener, ...]
    operations: tuple[FileOperation, ...]
    evidence: tuple[Evidence, ...] = ()
    image_bytes: Optional[int] = None
    timestamp: Optional[int] = None
    link_time: Optional[int] = None

    @property
    def base_name(self) -> str:
        """Return the last part of the name."""
        return windows_base_name(self.file_name or "")


class Share(NamedTuple):
    """The answer of ``dllshare``: ``handles_complete`` says that every handle table could be read."""

    target: TargetInfo
    loader: LoaderInfo
    files: tuple[MappedFile, ...]
    asked: Optional[str] = None
    handles_complete: bool = True
    problems: tuple[Problem, ...] = ()
