"""How does a script ask dlwhy, without a command line?

with dlwhy.open("core.4711") as process:
    library = process.library("libB.so")
    if library.held:
        print([hold.kind.value for hold in library.holds])
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Optional, Protocol, TypeVar, Union, cast

from .charset import own_path
from .errors import NoTargetError, NotFoundError, UnsupportedError, UsageError
from .imports import OwnImports

if TYPE_CHECKING:
    # Modules that only one family of targets needs are imported when it is asked about.
    from .host import Host
    from .linux.model import Library, State
    from .linux.plan_model import Plans
    from .linux.trace.events import Event, Stop, Trace
    from .target import LiveTarget, Target
    from .windows.model import DllPlans, DllState, GoneDlls, Share
    from .windows.trace.events import DllEvent, DllTrace

#: How many libraries an error names that match.
_NAMED_MATCHES = 8

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Answer = TypeVar("_Answer")
_Report = TypeVar("_Report", covariant=True)


def _ours(function: _Function) -> _Function:
    """Wrap a function that scripts call, so that it finds its imports where commands do."""

    @wraps(function)
    def call(*words: Any, **options: Any) -> Any:
        with OwnImports():
            return function(*words, **options)

    return cast("_Function", call)


class FileHost:
    """The host if there is no debugger: the target was opened by its number or path."""

    name = "script"

    def __init__(self, target: Target) -> None:
        self._target: Optional[Target] = target
        self._description = target.description
        self.kept: dict[str, object] = {}

    def target(self) -> Target:
        """Return the target that was opened.

        :raises NoTargetError: if it has been closed.
        """
        if self._target is None:
            raise NoTargetError(f"{self._description} has been closed: open it again by dlwhy.open")
        return self._target

    def live_target(self) -> LiveTarget:
        """Raise UnsupportedError: nothing is run here."""
        raise UnsupportedError("a trace needs a debugger that runs the process: use dlwhy.open() in its script")

    def evaluate(self, expression: str) -> int:
        """Parse a number: no debugger is here that could evaluate more."""
        try:
            return int(expression, 0)
        except ValueError as error:
            raise NotFoundError(f"'{expression}' is no number") from error

    def close(self) -> None:
        """Close the files that were opened; a second close does nothing."""
        target, self._target = self._target, None
        close = getattr(target, "close", None)
        if close is not None:
            close()


def open_named(
    target: Union[int, str, os.PathLike[str]],
    sysroot: Union[str, os.PathLike[str]] = "",
    executable: Union[str, os.PathLike[str]] = "",
    max_size: Optional[int] = None,
) -> FileHost:
    """Open a process by its number, a core or dump by its path; see `dlwhy.open`.

    :raises TypeError: if ``target`` is neither, or an option of another type.
    :raises UsageError: if ``max_size`` is less than 1, or an option does not fit the target.
    """
    if isinstance(target, int) and not isinstance(target, bool):
        if sysroot or executable or max_size is not None:
            raise UsageError("sysroot, executable and max_size are for files, not for a process")
        if sys.platform == "win32":
            raise UnsupportedError("a process of Windows is opened by pykd.attachProcess(pid), then dlwhy.open()")
        from .linux.dumps.procfs import ProcTarget

        return FileHost(ProcTarget(target))
    path = _path_of("a process id (int), the path of a core or dump (str or Path), or nothing in a debugger", target)
    root, program = _path_of("a path as sysroot", sysroot), _path_of("a path as executable", executable)
    if max_size is not None:
        _require_size(max_size)
    from .open import open_file

    return FileHost(open_file(path, root, program, max_size))


def _path_of(wanted: str, path: object) -> str:
    """Return a path as text decoded as `charset` does.

    :raises TypeError: if it is neither a str nor a Path.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"dlwhy.open takes {wanted}; not {type(path).__name__}")
    return own_path(text)


def _require_size(size: object) -> None:
    """Require that ``max_size`` is a number of bytes.

    :raises TypeError: if it is not an int.
    :raises UsageError: if it is less than 1.
    """
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"dlwhy.open takes a number of bytes (int) as max_size; not {type(size).__name__}")
    if size < 1:
        raise UsageError(f"max_size takes a number of bytes from 1 on, not {size}")


class Examination:
    """The questions that can be asked about a target; use it in a ``with`` statement, or call `close`.

    Each method examines the current state of the target and returns the answer of one command: a frozen value with
    ``target`` and ``loader`` (what was examined), and ``problems`` (what could not be established).
    A parameter of a wrong type is a TypeError, a number that is no address a UsageError.
    """

    def __init__(self, host: Union[Host, FileHost]) -> None:
        self._host = host

    def __enter__(self) -> Examination:
        """Return self."""
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        """Close the target's files."""
        self.close()

    def close(self) -> None:
        """Close the files that were opened; a debugger's target is left as it is.

        A second close does nothing; what is asked after it raises NoTargetError.
        """
        if isinstance(self._host, FileHost):
            self._host.close()

    # -- Linux and other ELF systems ------------------------------------------------------------------------------

    @_ours
    def state(self, library: Union[str, os.PathLike[str], int, None] = None) -> State:
        """Return why libraries stay loaded, as ``dlstate`` does.

        :param library: a name, soname, end of a path, pattern (``libB*``) or address inside; in a debugger also an
            expression for an address; None: all libraries.
        :raises NotFoundError: if no library fits.
        :raises DlwhyError: if the target cannot be examined, or is not one of an ELF system.

        Source: the loader's lists in the target's memory.
        """
        from .linux.state.examine import explain, explain_chosen
        from .linux.state.matching import select

        if library is None:
            return explain(self._host.target())
        text = _text_of("library", library)
        state = explain_chosen(self._host.target(), lambda found: select(found, text, self._host.evaluate), text)
        return state._replace(asked=text)

    def libraries(self, library: Union[str, os.PathLike[str], int, None] = None) -> tuple[Library, ...]:
        """Return the libraries of `state`, without its problems.

        :param library: as for `state`.
        :raises NotFoundError: if no library fits.
        :raises DlwhyError: if the target cannot be examined, or is not one of an ELF system.
        """
        return self.state(library).libraries

    def library(self, library: Union[str, os.PathLike[str], int]) -> Library:
        """Return the one library that fits.

        :param library: as for `state`.
        :raises NotFoundError: if there is none, or more than one.
        :raises DlwhyError: if the target cannot be examined, or is not one of an ELF system.
        """
        found = self.libraries(_text_of("library", library))
        if len(found) > 1:
            names = [each.path or each.name for each in found[:_NAMED_MATCHES]]
            rest = [f"{len(found) - len(names)} more"] if len(found) > len(names) else []
            raise NotFoundError(f"{len(found)} loaded libraries match '{library}': {', '.join([*names, *rest])}")
        return found[0]

    @_ours
    def plan(
        self, library: Union[str, os.PathLike[str], int, None] = None, closes: Union[int, str, None] = None
    ) -> Plans:
        """Return what closing a library would unload, as ``dlplan`` does.

        :param library: as for `state`, but a single one; None: each open library, the one whose close frees most first.
        :param closes: how often it is closed, at least 1, or ``"all"``: as often as it is open; None: once, or if
            ``library`` is None, as often as it is open.
        :raises NotFoundError: if no library fits, or more than one.
        :raises UsageError: if ``closes`` is not such a number.
        :raises DlwhyError: if the target cannot be examined, or is not one of an ELF system.

        Source: the loader's lists in the target's memory, and the rules of glibc's elf/dl-close.c.
        """
        from .linux.plan import plan_all, plan_close

        if library is None:
            return plan_all(self._host.target(), _count("closes", "all" if closes is None else closes))
        times = _count("closes", 1 if closes is None else closes)
        return plan_close(self._host.target(), _text_of("library", library), self._host.evaluate, times)

    @_ours
    def trace(
        self,
        *libraries: Union[str, os.PathLike[str]],
        stop_when: Optional[str] = None,
        tls: bool = False,
        fds: bool = False,
    ) -> Tracing[Trace]:
        """Return a trace of opens and closes, begun as ``dltrace start`` does, in gdb or LLDB.

        :param libraries: names or patterns of the libraries to report; none: all.
        :param stop_when: ``"kept"``, ``"unloaded"`` or ``"opened"``: when to stop the process; None: never.
        :param tls: report which TLS destructors are registered, and by whom.
        :param fds: report which file descriptors a library leaves open.
        :raises UsageError: if ``stop_when`` is none of these.
        :raises NoTargetError: if there is no process, or a core.
        :raises UnsupportedError: if no debugger runs the process, or it cannot be traced.

        Source: breakpoints in the loader, and the loader's lists at each.
        """
        wanted = tuple(_name_of("a library", each) for each in libraries)
        if stop_when not in (None, "kept", "unloaded", "opened"):
            raise UsageError(f"stop_when is 'kept', 'unloaded' or 'opened', not {stop_when!r}")
        if self._host.name == "windbg":
            raise UnsupportedError("trace is for programs of ELF systems: use dll_trace here")
        live = self._host.live_target()
        from .linux.trace.stops import TraceOptions
        from .linux.trace.tracer import begin

        def announce(stop: Stop) -> None:
            from .commands.dltrace.text import stop_view
            from .render.text import render

            live.say(render(stop_view(stop)))

        options = TraceOptions(wanted, stop_when, tls, fds)
        return Tracing(begin(live, options, _drop, announce))  # type: ignore[arg-type]

    # -- Windows --------------------------------------------------------------------------------------------------

    @_ours
    def dlls(self, dll: Union[str, os.PathLike[str], int, None] = None, pid: Optional[int] = None) -> DllState:
        """Return why DLLs stay loaded, as ``dllstate`` does.

        :param dll: a name with or without .dll, end of a path, pattern (``api*``) or address inside; in a debugger
            also an expression for an address; None: all DLLs.
        :param pid: the id of a process, if the target is a machine, else its own; None: the current process.
        :raises NotFoundError: if no DLL fits, or the target has no such process.
        :raises UnsupportedError: if the target is not one of Windows.
        :raises DlwhyError: if it cannot be examined.

        Source: the lists of ntdll's loader in the target's memory.
        """
        from .windows.state import explain_chosen_dlls, explain_dlls

        _require_pid(pid)
        if dll is None:
            return explain_dlls(self._host.target(), pid)
        return explain_chosen_dlls(self._host.target(), _text_of("dll", dll), self._host.evaluate, pid)

    @_ours
    def dll_plan(
        self,
        dll: Union[str, os.PathLike[str], int, None] = None,
        frees: Union[int, str, None] = None,
        pid: Optional[int] = None,
    ) -> DllPlans:
        """Return what FreeLibrary would unload, as ``dllplan`` does.

        :param dll: as for `dlls`, but a single one; None: each DLL that LoadLibrary has loaded, the one whose free
            unloads most first.
        :param frees: how often it is freed, at least 1, or ``"all"``: as often as it was loaded; None: once, or if
            ``dll`` is None, as often as it was loaded.
        :param pid: the id of a process, if the target is a machine, else its own; None: the current process.
        :raises NotFoundError: if no DLL fits, or more than one, or the target has no such process.
        :raises UsageError: if ``frees`` is not such a number.
        :raises UnsupportedError: if the target is not one of Windows.
        :raises DlwhyError: if it cannot be examined.

        Source: the lists of ntdll's loader in the target's memory, and the rules of its version.
        """
        from .windows.plan import plan_free, rank_frees

        _require_pid(pid)
        if dll is None:
            return rank_frees(self._host.target(), _count("frees", "all" if frees is None else frees), pid)
        text, times = _text_of("dll", dll), _count("frees", 1 if frees is None else frees)
        return plan_free(self._host.target(), text, self._host.evaluate, times, pid)

    @_ours
    def gone(self, address: Union[str, int, None] = None, pid: Optional[int] = None) -> GoneDlls:
        """Return which unloaded DLL was at an address, as ``dllgone`` does.

        :param address: a number, or in a debugger an expression for one; None: list all unloaded DLLs.
        :param pid: the id of a process, if the target is a machine, else its own; None: the current process.
        :raises NotFoundError: if the expression cannot be evaluated, or the target has no such process.
        :raises UnsupportedError: if the target is not one of Windows.
        :raises DlwhyError: if it cannot be examined.

        Source: the loader's own record (RtlGetUnloadEventTraceEx), and that of the dump or debugger.
        """
        from .windows.gone import find_gone

        _require_pid(pid)
        number = self._host.evaluate(address) if isinstance(address, str) else address
        if number is not None:
            _require_address("address", number, "a number (int) or an expression (str)")
        return find_gone(self._host.target(), number, pid)

    @_ours
    def shares(self, file: Union[str, os.PathLike[str], int, None] = None, pid: Optional[int] = None) -> Share:
        """Return what can be done to the mapped files of a Windows machine, as ``dllshare`` does.

        :param file: a name, end of a path, pattern or address inside; in a debugger also an expression for an address;
            None: all files that are mapped as images.
        :param pid: the id of the only process whose files are examined; None: all processes.
        :raises NotFoundError: if no file fits, or there is no such process.
        :raises UnsupportedError: if the target is a process, not a machine.
        :raises DlwhyError: if it cannot be examined.

        Source: sections, views and handles in the kernel's memory.
        """
        from .windows.share import share_all, share_file

        _require_pid(pid)
        if file is None:
            return share_all(self._host.target(), pid)
        return share_file(self._host.target(), _text_of("file", file), self._host.evaluate, pid)

    @_ours
    def dll_trace(self, *dlls: Union[str, os.PathLike[str]]) -> Tracing[DllTrace]:
        """Return a trace of loads and frees, begun as ``dlltrace start`` does, in WinDbg or a Python with pykd.

        :param dlls: names or patterns of the DLLs to report; none: all.
        :raises NoTargetError: if there is no process, or a dump.
        :raises UnsupportedError: if the engine does not run the process, or it cannot be traced.

        Source: breakpoints at ntdll's exports, and the engine's module events.
        """
        wanted = tuple(_name_of("a DLL", each) for each in dlls)
        if self._host.name != "windbg":
            raise UnsupportedError("dll_trace needs WinDbg (or pykd) and a process that it runs: ask here by dlls")
        from .windows.trace.tracer import DllTracer

        return Tracing(DllTracer(self._host.live_target(), wanted, _drop))  # type: ignore[arg-type]


class _Tracer(Protocol[_Report]):
    """The members that the traces of both families have."""

    def is_watching(self) -> bool: ...

    def stop(self) -> None: ...

    def report(self) -> _Report: ...


class Tracing(Generic[_Answer]):
    """A trace; it lasts while the debugger runs the process, until `stop` or the end of a ``with`` statement."""

    def __init__(self, tracer: _Tracer[_Answer]) -> None:
        self._tracer = tracer

    def __enter__(self) -> Tracing[_Answer]:
        """Return self."""
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        """Stop the trace."""
        self.stop()

    @property
    def is_watching(self) -> bool:
        """Return True if events are still seen: neither the trace nor the process has ended."""
        return self._tracer.is_watching()

    @_ours
    def report(self) -> _Answer:
        """Return the report up to this moment, as ``dltrace report`` and ``dlltrace report`` do."""
        return self._tracer.report()

    @_ours
    def stop(self) -> None:
        """End the trace: nothing of it stays in the process; `report` still works."""
        self._tracer.stop()


def _drop(_event: Union[Event, DllEvent]) -> None:
    """Drop an event: the report has the sums."""


def _text_of(parameter: str, wanted: object) -> str:
    """Return what is asked about as a command takes it: a name, or an address in hex.

    :raises TypeError: if it is neither a str or Path nor an int.
    :raises UsageError: if it is an int that is no address.
    """
    if isinstance(wanted, (str, os.PathLike)):
        return _name_of(parameter, wanted)
    return hex(_require_address(parameter, wanted, "a name (str or Path) or an address (int)"))


def _name_of(parameter: str, wanted: object) -> str:
    """Return a name as text.

    :raises TypeError: if it is neither a str nor a Path.
    """
    text = own_path(os.fspath(wanted)) if isinstance(wanted, os.PathLike) else wanted
    if not isinstance(text, str):
        raise TypeError(f"{parameter} is a name (str or Path); not {type(wanted).__name__}")
    return text


def _require_address(parameter: str, number: object, kinds: str) -> int:
    """Require that a number is an address, and return it.

    :raises TypeError: if it is not an int; ``kinds`` says what the parameter takes.
    :raises UsageError: if it is negative, or of more than 64 bits.
    """
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{parameter} is {kinds}; not {type(number).__name__}")
    if not 0 <= number < 1 << 64:
        raise UsageError(f"{parameter} is no address: {number:#x}")
    return number


def _require_pid(pid: object) -> None:
    """Require that ``pid`` is a number, or None.

    :raises TypeError: if it is neither.
    """
    if pid is not None and (not isinstance(pid, int) or isinstance(pid, bool)):
        raise TypeError(f"pid is the id of a process (int); not {type(pid).__name__}")


def _count(option: str, value: Union[int, str]) -> Optional[int]:
    """Return a number of times; None stands for 'all'.

    :raises TypeError: if it is neither an int nor a str.
    :raises UsageError: if it is neither a number of at least 1 nor 'all'.
    """
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        raise TypeError(f"{option} is a number (int) or 'all'; not {type(value).__name__}")
    from .commands.arguments import number_or_all

    return number_or_all(option, str(value))
