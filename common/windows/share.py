"""Can this mapped file be renamed, deleted or overwritten, and who maps it?

All processes are examined: VAD trees for views, handle tables for opens, because an opener without a view appears in no
VAD.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

from ..counts import quantity
from ..errors import CorruptError, FaultError, IncompleteSearchError, NotFoundError, UnsupportedError
from ..memory import Memory
from ..model import Evidence, LoaderInfo, Problem, TargetInfo
from ..paths import GLOB_CHARACTERS, windows_base_name
from ..target import Capability, KernelTarget, Target
from .kernel.doubts import compare_contexts, compare_with_handles, compare_with_pointers, compare_with_views
from .kernel.files import ControlArea, FileObject, FileReader
from .kernel.handles import HandleReader
from .kernel.kernel import SYSTEM_PID, find_nt
from .kernel.modules import list_modules
from .kernel.processes import Process, ProcessReader, list_processes
from .kernel.sections import SectionReader
from .kernel.usermode import MachineProcess
from .kernel.vad import Vad, VadReader
from .loaded import LoadedNames
from .model import FileView, MappedFile, Opener, OpenFile, SectionUse, Share, SystemVersion
from .pe import find_image
from .share_rules import FileUsage, check_operations

_SECTION_EVIDENCE = (
    "NumberOfSectionReferences",
    "NumberOfMappedViews",
    "NumberOfUserReferences",
    "u.LongFlags",
    "FilePointer",
)
_FILE_EVIDENCE = ("SectionObjectPointer", "DeletePending", "SharedWrite", "SharedDelete", "Flags")

#: Maximum number of reported problems: one damaged structure can make many others unreadable.
MAX_PROBLEMS = 32
#: At most this many processes are asked for a file's PE header.
MAX_HEADERS = 4
#: Maximum number of names that are compared to find similar ones.
MAX_COMPARED = 4096
#: How many processes' loaders are searched for the name of a file whose own cannot be read.
_ASKED_LOADERS = 4

# Costs of a reported view and a reported open, in Memory's units.
_HEADER_UNITS = 10_000
_MAPPING_UNITS, _OPEN_UNITS = 1000, 2500


class _Found(NamedTuple):
    """A file: its control areas and file objects by address, its views, and what a module list calls it.

    ``vads`` are the VADs of the views, each after its control area's address; ``doubts`` are what contradicts something
    else, in words.
    """

    areas: dict[int, ControlArea]
    files: dict[int, FileObject]
    mappings: list[FileView]
    listed_names: list[str]
    vads: list[tuple[int, Vad]]
    doubts: list[str]

    @classmethod
    def none(cls) -> _Found:
        """Return a file of which nothing is known."""
        return cls({}, {}, [], [], [], [])


class _Opened(NamedTuple):
    """An open handle of a file, or of a section of it."""

    process: Process
    handle: int
    access: int
    file: FileObject
    section: bool


class _Gap(NamedTuple):
    """Why a file may have been missed: in the process of that id, or in all for None."""

    pid: Optional[int]
    problem: Problem


def require_kernel(target: Target) -> KernelTarget:
    """Return the target as a machine's kernel.

    :raises UnsupportedError: if the target is a process, or a dump of one.
    """
    if Capability.KERNEL not in target.capabilities:
        raise UnsupportedError(
            "what maps a file is known to the kernel alone: give a kernel or complete memory dump, or ask in a "
            "kernel debug session"
        )
    return target  # type: ignore[return-value]


def share_file(target: Target, text: str, evaluate: Callable[[str], int], pid: Optional[int] = None) -> Share:
    """Return the verdicts on the mapped files that match a name, path, pattern or address.

    :param evaluate: returns the value of an expression.
    :param pid: only files that this process maps, its views first; None for all processes, for an address the current.
    :raises NotFoundError: if none fits, or there is no such process.
    :raises IncompleteSearchError: if none fits, but not all could be looked at: processes, VADs, names, handles.
    :raises UnsupportedError: if the target is not a kernel.
    :raises LayoutError: if no layouts of this kernel's structures are known.
    """
    machine = _Machine(require_kernel(target))
    machine.add_unmapped()
    matching = machine.by_name(text, pid)
    if matching:
        return machine.answer(matching, text, pid)
    matching = machine.by_address(text, evaluate, pid)
    if not matching:
        raise machine.not_found(text, pid)
    return machine.answer(matching, text, pid)


def share_all(target: Target, pid: Optional[int] = None) -> Share:
    """Return the verdicts on every file that is mapped as an image, by all processes or by one.

    :raises NotFoundError: if there is no such process.
    :raises UnsupportedError: if the target is not a kernel.
    :raises LayoutError: if no layouts of this kernel's structures are known.
    """
    machine = _Machine(require_kernel(target))
    keys = [
        key
        for key, found in machine.found.items()
        if any(mapping.image and pid in (None, mapping.pid) for mapping in found.mappings)
    ]
    if not keys and pid is not None:
        machine.require_process(pid)
    keys.sort(key=lambda key: (machine.name(key)[0] or "\U0010ffff").lower())
    return machine.answer(keys, None, pid)


class _Machine:
    """All processes of a machine and the files they map, keyed by section object pointers."""

    def __init__(self, target: KernelTarget) -> None:
        self.nt = find_nt(target)
        self.problems: list[Problem] = list(target.problems())
        self.files = FileReader(self.nt)
        self._sections_of_handles = SectionReader(self.nt, self.files)
        self._loaded = LoadedNames(self.nt)
        #: Why files may have been missed, and which views cannot be attributed to a file.
        self._gaps: list[_Gap] = []
        self._unidentified: list[tuple[Process, Vad]] = []
        listed = list(self.problems)
        self.processes = list_processes(self.nt, self.problems)
        self._gaps += [_Gap(None, problem) for problem in self.problems[len(listed) :]]
        self._all_listed = not self.problems
        self._by_pid = {process.pid: process for process in reversed(self.processes)}
        self._process_reader = ProcessReader(self.nt)
        self._vad_reader = VadReader(self.nt)
        self._handle_reader = HandleReader(self.nt)
        self.found: dict[int, _Found] = {}
        self._opened: Optional[dict[int, list[_Opened]]] = None
        self._handles_complete = True
        #: Files that can have sections which could not be read.
        self._unread_sections: set[int] = set()
        self._sections: dict[int, Optional[tuple[int, ControlArea]]] = {}
        self._unread: set[int] = set()
        #: The VADs that were found by the trees.
        self._in_trees: set[int] = set()
        for process in self.processes:
            where = _process_words(process)
            before = len(self.problems)
            vads = [] if process.exited else self._vad_reader.read_tree(process.eprocess, where, self.problems)
            self._gaps += [_Gap(process.pid, problem) for problem in self.problems[before:]]
            self._in_trees.update(vad.address for vad in vads)
            for vad in vads:
                if vad.section and (vad.is_view or self._is_of_file(vad)):
                    self._take(process, vad)
                elif vad.is_view and not vad.section:
                    problem = Problem(
                        where, f"the VAD at {vad.address:#x} maps a section by its VadFlags, but has none"
                    )
                    self.problems.append(problem)
                    self._gaps.append(_Gap(process.pid, problem))

    def _is_of_file(self, vad: Vad) -> bool:
        """Return True if a VAD that is no view by its own flags has a section of a file all the same."""
        try:
            return self.files.control_area(self.files.control_area_of(vad.section)).file_object != 0
        except (FaultError, CorruptError):
            return False  # it has no section, as its flags say

    def _take(self, process: Process, vad: Vad) -> None:
        if vad.section not in self._sections:
            self._sections[vad.section] = self._find_section(process, vad)
        section = self._sections[vad.section]
        if section is None:
            if vad.section in self._unread:
                self._unidentified.append((process, vad))
            return
        key, area = section
        self._take_area(key, area)
        self.found[key].vads.append((area.address, vad))
        self.found[key].mappings.append(
            FileView(
                pid=process.pid,
                process_name=process.name,
                base=vad.start,
                end=vad.end,
                vad=vad.address,
                image=area.image or vad.image,
                protection=vad.protection,
                commit_pages=vad.commit,
                wow64=bool(process.wow64),
            )
        )

    def _take_area(self, key: int, area: ControlArea) -> None:
        found = self.found.setdefault(key, _Found.none())
        if area.address not in found.areas:
            found.areas[area.address] = area
            file = self.files.find_file(area.file_object)
            if file is not None:
                found.files[file.address] = file

    # -- files that no process maps ----------------------------------------------------------------------------

    def add_unmapped(self) -> None:
        """Add the files that are open, or whose sections are, and the images of the kernel."""
        for key, opened in self._open_handles().items():
            found = self.found.setdefault(key, _Found.none())
            for each in opened:
                found.files.setdefault(each.file.address, each.file)
        self._add_kernel_images()

    def _add_kernel_images(self) -> None:
        modules = list_modules(self.nt)
        if modules is None or not modules.is_complete:
            reason = "it is not known" if modules is None else modules.reason
            self._gaps.append(_Gap(SYSTEM_PID, Problem("PsLoadedModuleList", f"{reason}: a driver can be missing")))
        nameless = 0
        for module in modules or ():
            nameless += not module.path
            area = self._sections_of_handles.find_control_area(module.section) if module.section else None
            file = self.files.find_file(area.file_object) if area is not None and area.file_object else None
            key = module.entry if file is None else file.section_object_pointer or file.address
            if area is not None and file is not None:
                self._take_area(key, area)
            found = self.found.setdefault(key, _Found.none())
            if module.path:
                found.listed_names.append(module.path)
            if file is None:
                self._unread_sections.add(key)
            end = module.base + module.size - 1
            found.mappings.append(FileView(SYSTEM_PID, "System", module.base, end, None, True, None))
        if nameless:
            problem = Problem("PsLoadedModuleList", f"the names of {nameless} of its modules cannot be read")
            self._gaps.append(_Gap(SYSTEM_PID, problem))

    def _open_handles(self) -> dict[int, list[_Opened]]:
        """Find the open handles of files and of their sections, by the files' section object pointers."""
        if self._opened is None:
            self._opened = {}
            before = len(self.problems)
            for process in self.processes:
                if process.object_table:
                    start = len(self.problems)
                    self._read_handles(process, self._opened)
                    self._gaps += [_Gap(process.pid, problem) for problem in self.problems[start:]]
            self._handles_complete = len(self.problems) == before
        return self._opened

    def _read_handles(self, process: Process, opened: dict[int, list[_Opened]]) -> None:
        where = _process_words(process)
        unread = 0
        for handle in self._handle_reader.for_each(process.object_table, where, self.problems):
            file, is_section = self.files.find_file(handle.object), False
            if file is None:
                area = self._sections_of_handles.find_control_area(handle.object)
                file, is_section = self.files.find_file(area.file_object) if area else None, True
                if file is None:
                    key = self.files.pointers_of(handle.object)
                    if key in self.found:
                        text = (
                            f"the handle {handle.value:#x} of {where} is of {handle.object:#x}, which has its section"
                        )
                        self.found[key].doubts.append(f"{text} object pointers, but is no file object")
                    elif not self._handle_reader.count_handles(handle.object):
                        unread += 1
                    else:
                        unread += self.files.can_be_file(handle.object)
                    continue
            if not self.nt.memory.spend(_OPEN_UNITS, "open handles"):
                self.problems.append(Problem(where, "not all its handles are looked at"))
                break
            key = file.section_object_pointer or file.address
            opened.setdefault(key, []).append(_Opened(process, handle.value, handle.granted_access, file, is_section))
        if unread:
            self.problems.append(Problem(where, f"the objects of {unread} of its handles cannot be read"))

    def _take_from_ring(self, key: int) -> None:
        """Add the views that only the sections' lists show: their process is in no list, or its tree is damaged."""
        known = {process.eprocess: process for process in self.processes}
        found = self.found[key]
        seen = {mapping.vad for mapping in found.mappings}
        for area in list(found.areas.values()):
            views = self.files.views(area)
            if views is not None and not views.is_complete:
                where = f"section {area.address:#x}"
                self.problems.append(Problem(where, f"{views.reason}: processes that map it can be missing"))
            for view in views or ():
                try:
                    process = known.get(view.eprocess) or self._process_reader.read(view.eprocess)
                    vad = self._vad_reader.read_long(view.vad)
                    is_view = vad.section and self.files.control_area_of(vad.section) == area.address
                except FaultError as error:
                    # Not a view: then the ring led elsewhere.  Or one that cannot be read.
                    message = f"a view of the section {area.address:#x} cannot be read: {error}"
                    self.problems.append(Problem(f"section {area.address:#x}", message))
                    continue
                if not is_view and vad.address in self._in_trees:
                    text = f"the section {area.address:#x} lists the VAD at {vad.address:#x}, which names another one"
                    found.doubts.append(text)
                if vad.address in seen or not is_view or process.exited or not process.is_plausible:
                    continue
                where = "the list of processes" if view.eprocess not in known else "the VAD tree of its process"
                message = f"the section {area.address:#x} has a view at {vad.start:#x} that is not in {where}"
                self.problems.append(Problem(_process_words(process), message))
                self._take(process, vad)

    def _find_section(self, process: Process, vad: Vad) -> Optional[tuple[int, ControlArea]]:
        """Find the file that a view belongs to, by its section object pointers; None if it is backed by none."""
        try:
            area = self.files.control_area(self.files.control_area_of(vad.section))
        except (FaultError, CorruptError) as error:
            self.problems.append(Problem(_process_words(process), f"the section of VAD {vad.address:#x}: {error}"))
            self._unread.add(vad.section)
            return None
        if area.file_object == 0 and not vad.image:
            return None
        file = self.files.find_file(area.file_object)
        if file is None:
            self._unread.add(vad.section)
            message = f"the file of VAD {vad.address:#x}: no file object at {area.file_object:#x}"
            self.problems.append(Problem(_process_words(process), message))
            return None
        return file.section_object_pointer or file.address, area

    # -- requested files -------------------------------------------------------------------------------------

    def name(self, key: int) -> tuple[Optional[str], Optional[str]]:
        """Return a file's name and whose it is: its own, else that of a module list or a loader; None if unknown."""
        found = self.found[key]
        own = next((file.name.text for file in found.files.values() if file.name.text), None)
        if own is not None:
            return own, "file-object"
        if found.listed_names:
            return found.listed_names[0], "module-list"
        if any(file.name.text == "" for file in found.files.values()):
            return None, None  # it has none, as a volume or a pipe
        for mapping in found.mappings[:_ASKED_LOADERS]:
            process = self._by_pid.get(mapping.pid)
            path = self._loaded.paths(process).get(mapping.base) if process is not None and mapping.image else None
            if path:
                return path, "loader"
        return None, None

    def _is_nameless(self, key: int) -> bool:
        """Return True if a file has a name that cannot be read."""
        found = self.found[key]
        return self.name(key)[0] is None and not any(file.name.text == "" for file in found.files.values())

    def _count_nameless(self, pid: Optional[int]) -> int:
        """Count the files that a process maps or has open, and whose names cannot be read."""
        return sum(self._is_nameless(key) for key in self.found if self._is_of(key, pid))

    def _is_of(self, key: int, pid: Optional[int]) -> bool:
        """Return True if a process maps a file or has it open; of None, any."""
        if pid is None:
            return True
        opened = self._open_handles().get(key, ())
        mapped = any(mapping.pid == pid for mapping in self.found[key].mappings)
        return mapped or any(each.process.pid == pid for each in opened)

    def by_name(self, text: str, pid: Optional[int]) -> list[int]:
        """List the files that match a name, the end of a path or a pattern, and that a process maps or has open."""
        if pid is not None:
            self.require_process(pid)
        wanted = _comparable(text)
        names = {key: _comparable(self.name(key)[0] or "") for key in self.found if self._is_of(key, pid)}
        exact = [key for key, name in names.items() if name and _names(name, wanted)]
        if exact or not _is_pattern(wanted):
            return exact
        import fnmatch

        return [
            key
            for key, name in names.items()
            if name and (fnmatch.fnmatchcase(name, wanted) or fnmatch.fnmatchcase(windows_base_name(name), wanted))
        ]

    def not_found(self, text: str, pid: Optional[int]) -> NotFoundError:
        """Return the failure to find a file: an IncompleteSearchError if it can be where nothing could be read."""
        near = self.near(text)
        gaps = [gap.problem for gap in self._gaps if pid is None or gap.pid in (None, pid)]
        unidentified = [process for process, _ in self._unidentified if pid in (None, process.pid)]
        if unidentified:
            who = ", ".join(list(dict.fromkeys(map(_process_words, unidentified)))[:3])
            gaps.append(Problem(who, f"the files of {quantity(len(unidentified), 'view')} cannot be read"))
        nameless = self._count_nameless(pid)
        if nameless:
            gaps.append(Problem("names", f"those of {quantity(nameless, 'mapped or open file')} cannot be read"))
        if not self._sections_of_handles.is_known:
            gaps.append(Problem("sections", "those without a view are not looked for: their layout is not known"))
        gaps += self.nt.memory.problems()
        if not gaps:
            failure = NotFoundError(f"no process maps a file that '{text}' fits, or has one open", near)
            failure.add(self.reported_problems())
            return failure
        message = f"no file that '{text}' fits was found, but not everything could be looked at"
        incomplete = IncompleteSearchError(message, near)
        incomplete.add((*self._listed_by_loaders(text, pid), *gaps))
        return incomplete

    def _listed_by_loaders(self, text: str, pid: Optional[int], seen: Iterable[int] = ()) -> Iterator[Problem]:
        """Yield which processes, of those whose VADs cannot be read completely, have loaded a file by their loaders."""
        wanted = _comparable(text)
        unread = {gap.pid for gap in self._gaps} | {process.pid for process, _ in self._unidentified}
        for process in self.processes:
            if process.pid not in unread or pid not in (None, process.pid) or process.pid in seen:
                continue
            for base, path in self._loaded.paths(process).items():
                if _names(_comparable(path), wanted):
                    message = f"its loader lists {path} at {base:#x}: it maps the file, but its VADs cannot be read"
                    yield Problem(_process_words(process), message)

    def by_address(self, text: str, evaluate: Callable[[str], int], pid: Optional[int]) -> list[int]:
        """List the file that is mapped at an address of a process, the current one unless another is named."""
        try:
            address = evaluate(text)
        except NotFoundError:
            return []  # it is a name, and `not_found` says what could not be looked at
        of_kernel = [key for key, found in self.found.items() if address in found.areas or address in found.files]
        if of_kernel:
            return of_kernel
        in_kernel = [
            key
            for key, found in self.found.items()
            if any(mapping.vad is None and mapping.base <= address <= mapping.end for mapping in found.mappings)
        ]
        if in_kernel:
            return in_kernel
        if pid is None:
            current = self.nt.target.current_process
            pid = next((process.pid for process in self.processes if process.eprocess == current), None)
            if pid is None:
                raise NotFoundError(f"'{text}' is an address, and no process is current: name one by -p PID")
        keys = [
            key
            for key, found in self.found.items()
            if any(mapping.pid == pid and mapping.base <= address <= mapping.end for mapping in found.mappings)
        ]
        if not keys:
            raise self._nothing_at(text, address, pid)
        return keys

    def _nothing_at(self, text: str, address: int, pid: int) -> NotFoundError:
        """Return the failure to find a file at an address, which can be in what could not be read of the process."""
        gaps = [gap.problem for gap in self._gaps if gap.pid == pid]
        there = [
            process for process, vad in self._unidentified if process.pid == pid and vad.start <= address <= vad.end
        ]
        if not gaps and not there:
            return NotFoundError(f"no process maps a file that '{text}' fits, or has one open", self.near(text))
        failure = IncompleteSearchError(f"which file is at {address:#x} of process {pid} cannot be read")
        process = self._by_pid[pid]
        listed = [(base, path) for base, path in self._loaded.paths(process).items() if base <= address]
        if listed:
            base, path = max(listed)
            gaps.insert(0, Problem(_process_words(process), f"its loader lists {path} at {base:#x}"))
        failure.add(gaps)
        return failure

    def require_process(self, pid: int) -> Process:
        """Find a process.

        :raises NotFoundError: if there is no such process; an IncompleteSearchError if not all are known.
        """
        for process in self.processes:
            if process.pid == pid:
                return process
        gaps = [gap.problem for gap in self._gaps if gap.pid is None]
        if gaps:
            failure = IncompleteSearchError(f"there is no process {pid} among those that could be read")
            failure.add(gaps)
            raise failure
        raise NotFoundError(f"there is no process {pid}")

    def near(self, text: str) -> list[str]:
        """List names similar to one that was not found."""
        import difflib

        names = sorted({windows_base_name(self.name(key)[0] or "") for key in self.found} - {""})
        wanted = windows_base_name(text).lower()
        names = names[:MAX_COMPARED]
        close = difflib.get_close_matches(wanted, [name.lower() for name in names], n=3, cutoff=0.5)
        return [name for name in names if name.lower() in close][:3]

    # -- the answer -------------------------------------------------------------------------------------------

    def answer(self, keys: Sequence[int], asked: Optional[str], pid: Optional[int]) -> Share:
        """Return the verdicts on files."""
        for key in keys:
            self._add_areas(key)
            self._take_from_ring(key)
        openers = self._open_handles()
        complete = self._all_listed and self._handles_complete
        opened_files = [each.file for opened in openers.values() for each in opened]
        contexts = compare_contexts(
            [*(file for found in self.found.values() for file in found.files.values()), *opened_files]
        )
        for key in keys:
            self.found[key].doubts.extend(contexts.get(key, ()))
            self._find_doubts(key, openers.get(key, []), complete=complete)
        files = tuple(self._describe_file(key, openers.get(key, []), complete, pid) for key in keys)
        files = self._with_link_times(files, all_of_them=asked is not None)
        nameless = sum(map(self._is_nameless, keys))
        if nameless:
            self.problems.append(Problem("names", f"those of {quantity(nameless, 'listed file')} cannot be read"))
        if asked is not None and _is_pattern(asked):
            left_out = self._count_nameless(pid) - nameless
            if left_out:
                message = f"those of {quantity(left_out, 'mapped or open file')} cannot be read: '{asked}' can fit them"
                self.problems.append(Problem("names", message))
        if asked is not None:
            mappers = {mapping.pid for file in files for mapping in file.mappings}
            self.problems += self._listed_by_loaders(asked, pid, mappers)
        return Share(
            target=self._target_info(),
            loader=LoaderInfo("nt", self._version(), self.nt.source),
            files=files,
            asked=asked,
            handles_complete=complete,
            problems=self.reported_problems(),
        )

    def reported_problems(self) -> tuple[Problem, ...]:
        """Return the problems, up to a limit."""
        problems = tuple(dict.fromkeys((*self.problems, *self.nt.target.problems())))
        cut = self.nt.memory.problems()
        if len(problems) <= MAX_PROBLEMS:
            return (*problems, *cut)
        more = quantity(len(problems) - MAX_PROBLEMS, "more problem of this kind is", "more problems of this kind are")
        return (*problems[:MAX_PROBLEMS], Problem("target", f"{more} not listed"), *cut)

    def _target_info(self) -> TargetInfo:
        target = self.nt.target
        return TargetInfo(target.kind, target.platform.os, target.platform.arch, target.pid, target.description)

    def _version(self) -> Optional[str]:
        build = self.nt.target.build_number
        return None if build is None else str(SystemVersion.of_build(build))

    def _add_areas(self, key: int) -> None:
        """Add the sections that a file's section object pointers name."""
        found = self.found[key]
        if not any(file.section_object_pointer == key for file in found.files.values()):
            return
        pointers = self.files.section_pointers(key)
        if pointers is None:
            self.problems.append(Problem("section", f"the section object pointers at {key:#x} cannot be read"))
            self._unread_sections.add(key)
            return
        for address, is_image in ((pointers.image, True), (pointers.data, False)):
            if address and address not in found.areas:
                try:
                    self._take_area(key, self.files.control_area(address))
                except (FaultError, CorruptError) as error:
                    self.problems.append(Problem("section", str(error)))
                    self._unread_sections.add(key)
            if address in found.areas:
                area = found.areas[address]
                file = self.files.find_file(area.file_object)
                found.doubts.extend(compare_with_pointers(area, file, key, is_image=is_image))
        for address, area in found.areas.items():
            if address not in (pointers.image, pointers.data):
                member = "ImageSectionObject" if area.image else "DataSectionObject"
                named = pointers.image if area.image else pointers.data
                found.doubts.append(
                    f"{member} at {key:#x} is {named:#x}, but {address:#x} is a section of the file, too"
                )

    def _find_doubts(self, key: int, openers: Sequence[_Opened], *, complete: bool) -> None:
        """Record what contradicts a file's structures; of the kinds of a section that which forbids more is taken."""
        found = self.found[key]
        for address, area in found.areas.items():
            views = [vad for owner, vad in found.vads if owner == address]
            found.doubts.extend(compare_with_views(area, views))
            found.areas[address] = area._replace(image=area.image or any(vad.image for vad in views))
        handles = Counter(each.file.address for each in openers if not each.section)
        files = {**found.files, **{each.file.address: each.file for each in openers}}
        for file in files.values():
            found.doubts.extend(file.doubts)
            if complete:
                count = self._handle_reader.count_handles(file.address)
                found.doubts.extend(compare_with_handles(file, handles[file.address], count))
        name = self.name(key)[0]
        label = windows_base_name(name) if name else f"file {key:#x}"
        self.problems += [Problem(label, text) for text in found.doubts]

    def _describe_file(
        self,
        key: int,
        handles: Sequence[_Opened],
        complete: bool,
        pid: Optional[int],
    ) -> MappedFile:
        found = self.found[key]
        areas = found.areas
        viewed = {owner for owner, _ in found.vads}
        sections = tuple(
            _section_use(area, area.address in viewed)
            for area in sorted(areas.values(), key=lambda area: not area.image)
        )
        files = {**found.files, **{each.file.address: each.file for each in handles}}
        opened = {each.file.address for each in handles if not each.section}
        references = {area.file_object: area.fast_ref for area in areas.values()}
        opens = {
            address: _open_file(file, address in opened, references.get(address)) for address, file in files.items()
        }
        main = next((area.file_object for area in sorted(areas.values(), key=lambda area: not area.image)), 0)
        file = files.get(main) or next(iter(files.values()), None)
        name, source = self.name(key)
        usage = FileUsage(
            sections,
            tuple(opens.values()),
            complete,
            self.nt.target.build_number,
            sections_complete=key not in self._unread_sections,
            is_doubted=bool(found.doubts),
        )
        return MappedFile(
            file_name=name,
            file_name_source=source,
            file_name_address=file.name.buffer if file else None,
            device_object=file.device if file else None,
            file=opens[file.address] if file else None,
            sections=sections,
            mappings=tuple(self._affordable(sorted(found.mappings, key=lambda mapping: _mapping_order(mapping, pid)))),
            openers=tuple(
                Opener(
                    each.process.pid,
                    each.process.name,
                    each.handle,
                    each.access,
                    opens[each.file.address],
                    each.section,
                )
                for each in handles
            ),
            evidence=tuple(self._evidence(areas.values(), opens.values())),
            operations=check_operations(usage),
        )

    def _with_link_times(self, files: Sequence[MappedFile], *, all_of_them: bool) -> tuple[MappedFile, ...]:
        """Add what the PE headers in memory say, for files that share a name even if not for all."""
        names = Counter(file.base_name.lower() for file in files)
        return tuple(
            self._with_link_time(file) if all_of_them or names[file.base_name.lower()] > 1 else file for file in files
        )

    def _with_link_time(self, file: MappedFile) -> MappedFile:
        images = [mapping for mapping in file.mappings if mapping.image]
        if not images:
            return file
        file = file._replace(image_bytes=max(mapping.end + 1 - mapping.base for mapping in images))
        for mapping in images[:MAX_HEADERS]:
            memory = self._memory_of(mapping)
            image = find_image(memory, mapping.base) if memory is not None else None
            if image is None:
                continue
            try:
                return file._replace(timestamp=image.timestamp, link_time=image.link_time())
            except FaultError:
                file = file._replace(timestamp=image.timestamp)
        return file

    def _memory_of(self, mapping: FileView) -> Optional[Memory]:
        """Return the memory in which a view is mapped."""
        if mapping.vad is None:
            return self.nt.memory
        process = next((each for each in self.processes if each.pid == mapping.pid and not each.exited), None)
        if process is None or not self.nt.memory.spend(_HEADER_UNITS, "PE headers"):
            return None
        target = self.nt.target
        space = target.address_space(process.eprocess, process.directory_table_base)
        return Memory(MachineProcess(target, self.nt, process, space))

    def _affordable(self, mappings: Sequence[FileView]) -> Iterator[FileView]:
        """Yield the views that the budget allows to report."""
        for mapping in mappings:
            if not self.nt.memory.spend(_MAPPING_UNITS, "mappings"):
                return
            yield mapping

    def _evidence(self, areas: Iterable[ControlArea], opens: Iterable[OpenFile]) -> Iterator[Evidence]:
        """Read the members behind the verdicts again, each with its address and the source of its offset."""
        nt = self.nt
        places = [("_CONTROL_AREA", area.address, _SECTION_EVIDENCE) for area in areas]
        places += [("_FILE_OBJECT", each.address, _FILE_EVIDENCE) for each in opens]
        for type_name, address, members in places:
            for member in members:
                if nt.has(type_name, member):
                    field = nt.field(type_name, member)
                    place = address + field.offset
                    expression = f"((nt!{type_name} *) {address:#x})->{member}"
                    value = nt.memory.try_unsigned(place, field.size)
                    if value is not None:
                        yield Evidence(place, expression, value, field.offset, nt.source, member)


def _comparable(name: str) -> str:
    """Return a path in lower case, as a file object has it: without a drive, and with the folder of Windows by name."""
    found = name.replace("/", "\\").lower()
    if found.startswith("\\??\\"):
        found = found[4:]
    if found[1:2] == ":":
        found = found[2:]
    if found.startswith("\\systemroot\\"):
        found = found.replace("\\systemroot", "\\windows", 1)
    return found


def _is_pattern(text: str) -> bool:
    return not GLOB_CHARACTERS.isdisjoint(text)


def _names(name: str, wanted: str) -> bool:
    """Return True if a lower-case path equals or ends with ``wanted``; the extension may be omitted."""
    if name == wanted or name.endswith("\\" + wanted.lstrip("\\")):
        return True
    base = windows_base_name(name)
    return "\\" not in wanted and base.rpartition(".")[0] == wanted


def _mapping_order(mapping: FileView, pid: Optional[int]) -> tuple[bool, bool, int, int]:
    """Return the sort key of a view: the requested process first, images before data."""
    return mapping.pid != pid, not mapping.image, mapping.pid, mapping.base


def _section_use(area: ControlArea, has_view: bool) -> SectionUse:
    in_image = area.mapped_views or area.section_references
    live = has_view or (in_image if area.image else area.user_references)
    return SectionUse(
        control_area=area.address,
        image=area.image,
        section_references=area.section_references,
        mapped_views=area.mapped_views,
        user_references=area.user_references,
        writable_references=area.writable_references,
        in_use=bool(live),
    )


def _open_file(file: FileObject, has_handle: bool, fast_ref: Optional[int]) -> OpenFile:
    return OpenFile(
        address=file.address,
        access=file.access,
        sharing=file.sharing,
        open=has_handle or not file.cleaned_up,
        delete_pending=file.delete_pending,
        fast_ref=fast_ref,
    )


def _process_words(process: Process) -> str:
    return f"{process.name} ({process.pid})"
