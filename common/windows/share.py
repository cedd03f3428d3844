"""Can this mapped file be renamed, deleted or overwritten, and who maps it?

All processes are examined: VAD trees for views, handle tables for opens, because an opener without a view appears in no
VAD.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

from ..errors import CorruptError, FaultError, NotFoundError, UnsupportedError
from ..model import Evidence, LoaderInfo, Problem, TargetInfo
from ..paths import windows_base_name
from ..target import Capability, KernelTarget, Target
from .kernel.files import ControlArea, FileObject, FileReader
from .kernel.handles import HandleReader
from .kernel.kernel import find_nt
from .kernel.processes import Process, ProcessReader, list_processes
from .kernel.vad import Vad, VadReader
from .model import FileView, MappedFile, Opener, OpenFile, SectionUse, Share
from .share_rules import FileUsage, check_operations

_SECTION_EVIDENCE = (
    "NumberOfSectionReferences",
    "NumberOfMappedViews",
    "NumberOfUserReferences",
    "u.LongFlags",
    "FilePointer",
)
_FILE_EVIDENCE = ("SectionObjectPointer", "DeletePending", "SharedWrite", "SharedDelete", "Flags")

# The first build of each version of NT since XP.
_FIRST_BUILDS = (
    (2600, "5.1"),
    (3790, "5.2"),
    (6000, "6.0"),
    (7600, "6.1"),
    (9200, "6.2"),
    (9600, "6.3"),
    (10240, "10.0"),
)

#: Maximum number of reported problems: one damaged structure can make many others unreadable.
MAX_PROBLEMS = 32
#: Maximum number of names that are compared to find similar ones.
MAX_COMPARED = 4096

# Costs of a reported view and a reported open, in Memory's units.
_MAPPING_UNITS, _OPEN_UNITS = 1000, 2500


class _Found(NamedTuple):
    """A mapped file: its control areas by address, its file objects, and its views."""

    areas: dict[int, ControlArea]
    files: dict[int, FileObject]
    mappings: list[FileView]


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
    :raises UnsupportedError: if the target is not a kernel.
    :raises LayoutError: if no layouts of this kernel's structures are known.
    """
    machine = _Machine(require_kernel(target))
    matching = machine.by_name(text, pid) or machine.by_address(text, evaluate, pid)
    if not matching:
        failure = NotFoundError(f"no process maps a file that '{text}' fits", machine.near(text))
        failure.add(machine.reported_problems())
        raise failure
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
    keys.sort(key=lambda key: (machine.name(key) or "\U0010ffff").lower())
    return machine.answer(keys, None, pid)


class _Machine:
    """All processes of a machine and the files they map, keyed by section object pointers."""

    def __init__(self, target: KernelTarget) -> None:
        self.nt = find_nt(target)
        self.problems: list[Problem] = list(target.problems())
        self.files = FileReader(self.nt)
        self.processes = list_processes(self.nt, self.problems)
        self._all_listed = not self.problems
        self._process_reader = ProcessReader(self.nt)
        self._vad_reader = VadReader(self.nt)
        self.found: dict[int, _Found] = {}
        self._sections: dict[int, Optional[tuple[int, ControlArea]]] = {}
        for process in self.processes:
            where = _process_words(process)
            for vad in () if process.exited else self._vad_reader.read_tree(process.eprocess, where, self.problems):
                if vad.section:
                    self._take(process, vad)

    def _take(self, process: Process, vad: Vad) -> None:
        if vad.section not in self._sections:
            self._sections[vad.section] = self._find_section(process, vad)
        section = self._sections[vad.section]
        if section is None:
            return
        key, area = section
        found = self.found.setdefault(key, _Found({}, {}, []))
        if area.address not in found.areas:
            found.areas[area.address] = area
            file = self.files.find_file(area.file_object)
            if file is not None:
                found.files[file.address] = file
        found.mappings.append(
            FileView(
                pid=process.pid,
                process_name=process.name,
                base=vad.start,
                end=vad.end,
                vad=vad.address,
                image=area.image,
                protection=vad.protection,
                commit_pages=vad.commit,
                wow64=bool(process.wow64),
            )
        )

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
                except FaultError:
                    continue
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
            return None
        if area.file_object == 0:
            return None
        file = self.files.find_file(area.file_object)
        if file is None:
            message = f"the file of VAD {vad.address:#x}: no file object at {area.file_object:#x}"
            self.problems.append(Problem(_process_words(process), message))
            return None
        return file.section_object_pointer or file.address, area

    # -- requested files -------------------------------------------------------------------------------------

    def name(self, key: int) -> Optional[str]:
        """Return a file's name, None if it cannot be read."""
        return next((file.name.text for file in self.found[key].files.values() if file.name.text), None)

    def by_name(self, text: str, pid: Optional[int]) -> list[int]:
        """List the files that match a name, the end of a path or a pattern, and that a process maps."""
        if pid is not None:
            self.require_process(pid)
        wanted = text.replace("/", "\\").lower()
        if wanted[1:2] == ":":
            wanted = wanted[2:]
        names = {
            key: (self.name(key) or "").lower()
            for key, found in self.found.items()
            if pid is None or any(mapping.pid == pid for mapping in found.mappings)
        }
        exact = [key for key, name in names.items() if name and _names(name, wanted)]
        if exact or not set("*?[") & set(wanted):
            return exact
        import fnmatch

        return [
            key
            for key, name in names.items()
            if name and (fnmatch.fnmatchcase(name, wanted) or fnmatch.fnmatchcase(windows_base_name(name), wanted))
        ]

    def by_address(self, text: str, evaluate: Callable[[str], int], pid: Optional[int]) -> list[int]:
        """List the file that is mapped at an address of a process, the current one unless another is named."""
        try:
            address = evaluate(text)
        except NotFoundError:
            return []
        if pid is None:
            current = self.nt.target.current_process
            pid = next((process.pid for process in self.processes if process.eprocess == current), None)
            if pid is None:
                raise NotFoundError(f"'{text}' is an address, and no process is current: name one by -p PID")
        return [
            key
            for key, found in self.found.items()
            if any(mapping.pid == pid and mapping.base <= address <= mapping.end for mapping in found.mappings)
        ]

    def require_process(self, pid: int) -> Process:
        """Find a process.

        :raises NotFoundError: if there is no such process.
        """
        for process in self.processes:
            if process.pid == pid:
                return process
        raise NotFoundError(f"there is no process {pid}")

    def near(self, text: str) -> list[str]:
        """List names similar to one that was not found."""
        import difflib

        names = sorted({windows_base_name(self.name(key) or "") for key in self.found} - {""})
        wanted = windows_base_name(text).lower()
        names = names[:MAX_COMPARED]
        close = difflib.get_close_matches(wanted, [name.lower() for name in names], n=3, cutoff=0.5)
        return [name for name in names if name.lower() in close][:3]

    # -- the answer -------------------------------------------------------------------------------------------

    def answer(self, keys: Sequence[int], asked: Optional[str], pid: Optional[int]) -> Share:
        """Return the verdicts on files."""
        for key in keys:
            self._take_from_ring(key)
        before = len(self.problems)
        openers = self._openers(frozenset(keys))
        complete = self._all_listed and len(self.problems) == before
        files = tuple(self._describe_file(key, openers.get(key, []), complete, pid) for key in keys)
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
        more = Problem("target", f"{len(problems) - MAX_PROBLEMS} more problems of this kind are not listed")
        return (*problems[:MAX_PROBLEMS], more, *cut)

    def _target_info(self) -> TargetInfo:
        target = self.nt.target
        return TargetInfo(target.kind, target.platform.os, target.platform.arch, target.pid, target.description)

    def _version(self) -> Optional[str]:
        build = self.nt.target.build_number
        if build is None:
            return None
        index = bisect.bisect_right(_FIRST_BUILDS, (build, "~")) - 1
        return f"{_FIRST_BUILDS[max(index, 0)][1]}.{build}"

    def _openers(self, keys: frozenset[int]) -> dict[int, list[tuple[Process, int, int, FileObject]]]:
        """Find the open handles of files, by the files' section object pointers."""
        reader = HandleReader(self.nt)
        found: dict[int, list[tuple[Process, int, int, FileObject]]] = {}
        for process in self.processes:
            if not process.object_table:
                continue
            for handle in reader.for_each(process.object_table, _process_words(process), self.problems):
                file = self.files.find_file(handle.object)
                if file is not None and file.section_object_pointer in keys:
                    if not self.nt.memory.spend(_OPEN_UNITS, "open handles"):
                        self.problems.append(Problem(_process_words(process), "not all its handles are looked at"))
                        return found
                    opened = (process, handle.value, handle.granted_access, file)
                    found.setdefault(file.section_object_pointer, []).append(opened)
        return found

    def _describe_file(
        self,
        key: int,
        handles: Sequence[tuple[Process, int, int, FileObject]],
        complete: bool,
        pid: Optional[int],
    ) -> MappedFile:
        found = self.found[key]
        areas = dict(found.areas)
        pointers = self.files.section_pointers(key)
        for address in (pointers.image, pointers.data) if pointers else ():
            if address and address not in areas:
                area = self._area_of_file(address)
                if area is not None:
                    areas[address] = area
        sections = tuple(_section_use(area) for area in sorted(areas.values(), key=lambda area: not area.image))
        files = dict(found.files)
        for area in areas.values():
            other = self.files.find_file(area.file_object)
            if other is not None:
                files.setdefault(other.address, other)
        opened = {file.address for _, _, _, file in handles}
        references = {area.file_object: area.fast_ref for area in areas.values()}
        opens = {
            file.address: _open_file(file, file.address in opened, references.get(file.address))
            for file in (*files.values(), *(file for _, _, _, file in handles))
        }
        main = next((area.file_object for area in sorted(areas.values(), key=lambda area: not area.image)), 0)
        file = files.get(main) or next(iter(files.values()))
        return MappedFile(
            file_name=file.name.text,
            file_name_address=file.name.buffer,
            device_object=file.device,
            file=opens[file.address],
            sections=sections,
            mappings=tuple(self._affordable(sorted(found.mappings, key=lambda mapping: _mapping_order(mapping, pid)))),
            openers=tuple(
                Opener(process.pid, process.name, value, access, opens[file.address])
                for process, value, access, file in handles
            ),
            evidence=tuple(self._evidence(areas.values(), opens.values())),
            operations=check_operations(
                FileUsage(sections, tuple(opens.values()), complete, self.nt.target.build_number)
            ),
        )

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

    def _area_of_file(self, address: int) -> Optional[ControlArea]:
        try:
            return self.files.control_area(address)
        except (FaultError, CorruptError) as error:
            self.problems.append(Problem("section", str(error)))
            return None


def _names(name: str, wanted: str) -> bool:
    """Return True if a lower-case path equals or ends with ``wanted``; the extension may be omitted."""
    if name == wanted or name.endswith("\\" + wanted.lstrip("\\")):
        return True
    base = windows_base_name(name)
    return "\\" not in wanted and base.rpartition(".")[0] == wanted


def _mapping_order(mapping: FileView, pid: Optional[int]) -> tuple[bool, bool, int, int]:
    """Return the sort key of a view: the requested process first, images before data."""
    return mapping.pid != pid, not mapping.image, mapping.pid, mapping.base


def _section_use(area: ControlArea) -> SectionUse:
    live = area.mapped_views or area.section_references if area.image else area.user_references
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
