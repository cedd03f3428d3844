"""How is one process of a machine presented as a target?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, Optional

from ...errors import CorruptError, FaultError, IncompleteSearchError, LayoutError, NotFoundError
from ...model import Layout, Module, Problem, Thread
from ...target import AddressSpace, Capability, KernelTarget
from ..model import ListedImage, SystemVersion, UnloadedImage
from ..target import LOADER_NAMES, RaisedException
from .files import FileReader
from .kernel import SYSTEM_PID, Nt, find_nt
from .processes import Process, list_processes
from .vad import VadReader

#: The processes of the kernel's own beside System, as ImageFileName has them.
_KERNEL_NAMES = frozenset({"Idle", "Registry", "MemCompression", "Secure System"})


class MachineProcess:
    """A process of a machine as a target; its threads are not read."""

    def __init__(self, machine: KernelTarget, nt: Nt, process: Process, space: AddressSpace) -> None:
        self._machine = machine
        self._nt = nt
        self._process = process
        self._space = space
        self.platform = machine.platform
        self.capabilities = machine.capabilities & (Capability.LIVE | Capability.RUNNING)
        self.kind = machine.kind
        self._problems: list[Problem] = []
        self._images: Optional[tuple[ListedImage, ...]] = None
        self._images_complete = True

    @property
    def pid(self) -> Optional[int]:
        """Return the process id."""
        return self._process.pid

    @property
    def description(self) -> str:
        """Describe the process by its name and its machine."""
        return f"process {self._process.name} ({self._process.pid}) of {self._machine.description}"

    @property
    def system(self) -> SystemVersion:
        """Return the version that the kernel's build is of."""
        build = self._machine.build_number
        return SystemVersion.of_build(build) if build else SystemVersion(0, 0, 0)

    def problems(self) -> Sequence[Problem]:
        """Return the problems of the machine's memory."""
        return (*self._machine.problems(), *self._problems)

    def read(self, address: int, size: int) -> bytes:
        """Read memory as the process sees it."""
        return self._space.read(address, size)

    def peb(self) -> Optional[int]:
        """Return the native PEB; system processes have none."""
        return self._process.peb or None

    @property
    def has_no_loader(self) -> bool:
        """Return True if the process is one of the kernel's own: without a PEB, and with the id or name of one."""
        process = self._process
        return not process.peb and (process.pid == SYSTEM_PID or process.name in _KERNEL_NAMES)

    def reason_without_peb(self) -> str:
        """Return why there is no PEB: System and its kin have none."""
        name = f"{self._process.name} ({self._process.pid})"
        if self.has_no_loader:
            return f"{name} has none: it is a process of the kernel, in which no loader runs and nothing is loaded"
        return f"that of {name} is not known: its DLLs are not known"

    def wow64_peb(self) -> Optional[int]:
        """Return the PEB of 32-bit code, None in a native process."""
        if not self._process.wow64:
            return None
        try:
            member = self._nt.field("_EWOW64PROCESS", "Peb")
        except LayoutError:
            return self._process.wow64  # up to Windows 10 1511 the pointer itself
        try:
            return self._nt.memory.pointer(self._process.wow64 + member.offset) or None
        except FaultError as error:
            self._problems.append(Problem(LOADER_NAMES["wow64"], f"its PEB is not known: {error}"))
            return None

    @property
    def images_complete(self) -> bool:
        """Return True if `images` lists every mapped image: the VAD tree and all files could be read."""
        return bool(self.images()) and self._images_complete

    def images(self) -> Sequence[ListedImage]:
        """List the files that the process maps as images, from its VADs; empty without the program among them."""
        if self._images is None:
            program = self._program_base()
            found = sorted(self._mapped_images(), key=lambda image: (image.base != program, image.base))
            self._images = tuple(found) if found and found[0].base == program else ()
        return self._images

    def _program_base(self) -> int:
        try:
            return self._nt.memory.pointer(
                self._process.eprocess + self._nt.field("_EPROCESS", "SectionBaseAddress").offset
            )
        except (FaultError, LayoutError):
            return 0  # then the list of images is empty, and counts as incomplete

    def _mapped_images(self) -> Iterator[ListedImage]:
        try:
            vads = VadReader(self._nt).read_tree(self._process.eprocess, self._process.name, self._problems)
            files = FileReader(self._nt)
        except LayoutError as error:
            self._problems.append(Problem(self._process.name, f"its VADs are not looked at: {error}"))
            self._images_complete = False
            return
        self._images_complete = not self._problems
        unread = 0
        for vad in vads:
            if not vad.is_view or not vad.section:
                continue
            try:
                area = files.control_area(files.control_area_of(vad.section))
            except (FaultError, CorruptError):
                unread += 1
                continue
            if not area.image or not area.file_object:
                continue
            file = files.find_file(area.file_object)
            unread += file is None
            yield ListedImage(file.name.text or "" if file else "", vad.start, vad.end + 1 - vad.start)
        if unread:
            self._images_complete = False
            self._problems.append(Problem(self._process.name, f"the files of {unread} of its views cannot be read"))

    def thread_starts(self) -> Mapping[int, int]:
        """Return none: threads are not read."""
        return {}

    def memory_ranges(self) -> Optional[Sequence[tuple[int, int]]]:
        """Return None: the memory of a machine is too much to search."""
        return None

    def unloaded_images(self) -> Optional[Sequence[UnloadedImage]]:
        """Return None: the loader's own record lists them."""
        return None

    def stack(self, thread: Thread) -> Optional[tuple[int, int]]:
        """Return None: there are no threads."""
        return None

    def exception(self) -> Optional[RaisedException]:
        """Return None: a dump of a machine is written for none of a process."""
        return None

    def modules(self) -> Sequence[Module]:
        """Return no modules: there is no debugger."""
        return ()

    def threads(self) -> Sequence[Thread]:
        """Return no threads: they are not read."""
        return ()

    def registers(self, thread: Thread, names: Sequence[str] = ()) -> Mapping[str, int]:
        """Return no registers: there are no threads."""
        return {}

    def auxv(self) -> Mapping[int, int]:
        """Return an empty mapping: Windows has no auxiliary vector."""
        return {}

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Return None: the kernel's PDB describes another module."""
        return None

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Return None: the files are on the machine."""
        return None


def open_process(machine: KernelTarget, pid: Optional[int] = None) -> MachineProcess:
    """Open a process of a machine: the one with the given id, else the current one.

    :raises NotFoundError: if there is no such process; an IncompleteSearchError if the list of processes is incomplete.
    :raises LayoutError: if no layouts of the kernel's structures fit.
    """
    nt = find_nt(machine)
    problems: list[Problem] = []
    listed = list_processes(nt, problems)
    processes = [process for process in listed if not process.exited]
    current = machine.current_process
    for process in processes:
        if process.pid == pid or (pid is None and process.eprocess == current):
            space = machine.address_space(process.eprocess, process.directory_table_base)
            return MachineProcess(machine, nt, process, space)
    near = [f"{process.name} ({process.pid})" for process in processes if process.peb][:8]
    what = "the current process is not known" if pid is None else f"no process has the id {pid}"
    for process in listed:
        if process.pid == pid or (pid is None and process.eprocess == current):
            what = f"the process {process.name} ({process.pid}) has exited, and its memory is gone"
            raise NotFoundError(f"{what}: give another one by --process, in Python by pid", near)
    if problems:
        failure = IncompleteSearchError(f"{what}, but not all processes are known", near)
        failure.add(problems)
        raise failure
    raise NotFoundError(f"{what}: give one by --process, in Python by pid", near)


if TYPE_CHECKING:
    from ..target import WindowsTarget

    _conforms: type[WindowsTarget] = MachineProcess
