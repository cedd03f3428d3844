"""Explain dynamic libraries: why one is still loaded, what a close would unload, and whether that is safe.

The names in ``__all__`` are public, and so are their members without an underscore; docs/scripts.md describes them.
Everything else, including the modules below this package, can change with any version.
"""

from __future__ import annotations

# python -m dlwhy imports this while modules of the current folder come first: nothing is imported, not even typing.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import Optional, Union

    from .common.api import Examination, Tracing
    from .common.errors import (
        CorruptError,
        DlwhyError,
        DumpFormatError,
        FaultError,
        IncompleteSearchError,
        LayoutError,
        LimitError,
        NoTargetError,
        NotFoundError,
        UnsupportedError,
        UsageError,
    )
    from .common.host import Host
    from .common.linux.model import CodeSymbol, Hold, HoldKind, Library, Root, State, StaticTls, TlsDestructor
    from .common.linux.plan_model import Action, Closer, ClosingWay, Plan, Plans, Remedy, Step, ThreadInside
    from .common.linux.rebuild_model import Fix, FixKind, Hiding, Obstacle, ObstacleKind, Rebuild
    from .common.linux.trace.events import (
        Close,
        DescriptorLeak,
        KeptLibrary,
        LibraryInstance,
        Open,
        Pin,
        TlsRegistration,
        Trace,
    )
    from .common.model import Evidence, LoaderInfo, Outcome, Problem, Source, SourceKind, TargetInfo, ThreadRef
    from .common.trace.events import Calls, EventHeader, LibraryTotals, OpenResult, Site, Totals
    from .common.windows.model import (
        Allowed,
        Crash,
        CrashCaller,
        CrashWord,
        Dll,
        DllHold,
        DllHoldKind,
        DllPlan,
        DllPlans,
        DllState,
        DllStep,
        FileOperation,
        FileView,
        GoneDll,
        GoneDlls,
        HolderKind,
        ImportCycleAlternative,
        ListPositions,
        LoaderRule,
        LoaderRules,
        LoadHolder,
        MappedFile,
        Opener,
        OpenFile,
        Pointer,
        SectionUse,
        Share,
        Status,
        UnloadedImage,
    )
    from .common.windows.trace.events import DllClose, DllInstance, DllOpen, DllPin, DllTrace, KeptDll

__version__ = "0.1.0"

__all__ = [
    "Action",
    "Allowed",
    "Calls",
    "Close",
    "Closer",
    "ClosingWay",
    "CodeSymbol",
    "CorruptError",
    "Crash",
    "CrashCaller",
    "CrashWord",
    "DescriptorLeak",
    "Dll",
    "DllClose",
    "DllHold",
    "DllHoldKind",
    "DllInstance",
    "DllOpen",
    "DllPin",
    "DllPlan",
    "DllPlans",
    "DllState",
    "DllStep",
    "DllTrace",
    "DlwhyError",
    "DumpFormatError",
    "EventHeader",
    "Evidence",
    "Examination",
    "FaultError",
    "FileOperation",
    "FileView",
    "Fix",
    "FixKind",
    "GoneDll",
    "GoneDlls",
    "Hiding",
    "Hold",
    "HoldKind",
    "HolderKind",
    "ImportCycleAlternative",
    "IncompleteSearchError",
    "KeptDll",
    "KeptLibrary",
    "LayoutError",
    "Library",
    "LibraryInstance",
    "LibraryTotals",
    "LimitError",
    "ListPositions",
    "LoadHolder",
    "LoaderInfo",
    "LoaderRule",
    "LoaderRules",
    "MappedFile",
    "NoTargetError",
    "NotFoundError",
    "Obstacle",
    "ObstacleKind",
    "Open",
    "OpenFile",
    "OpenResult",
    "Opener",
    "Outcome",
    "Pin",
    "Plan",
    "Plans",
    "Pointer",
    "Problem",
    "Rebuild",
    "Remedy",
    "Root",
    "SectionUse",
    "Share",
    "Site",
    "Source",
    "SourceKind",
    "State",
    "StaticTls",
    "Status",
    "Step",
    "TargetInfo",
    "ThreadInside",
    "ThreadRef",
    "TlsDestructor",
    "TlsRegistration",
    "Totals",
    "Trace",
    "Tracing",
    "UnloadedImage",
    "UnsupportedError",
    "UsageError",
    "__version__",
    "open",
]

#: The module that has each public name; it is imported when a script asks for the name.
_HOMES = {
    "common.api": "Examination Tracing",
    "common.errors": (
        "CorruptError DlwhyError DumpFormatError FaultError IncompleteSearchError LayoutError LimitError NoTargetError "
        "NotFoundError UnsupportedError UsageError"
    ),
    "common.linux.model": "CodeSymbol Hold HoldKind Library Root State StaticTls TlsDestructor",
    "common.linux.plan_model": "Action Closer ClosingWay Plan Plans Remedy Step ThreadInside",
    "common.linux.rebuild_model": "Fix FixKind Hiding Obstacle ObstacleKind Rebuild",
    "common.linux.trace.events": "Close DescriptorLeak KeptLibrary LibraryInstance Open Pin TlsRegistration Trace",
    "common.model": "Evidence LoaderInfo Outcome Problem Source SourceKind TargetInfo ThreadRef",
    "common.trace.events": "Calls EventHeader LibraryTotals OpenResult Site Totals",
    "common.windows.model": (
        "Allowed Crash CrashCaller CrashWord "
        "Dll DllHold DllHoldKind DllPlan DllPlans DllState DllStep FileOperation FileView GoneDll "
        "GoneDlls HolderKind ImportCycleAlternative ListPositions LoadHolder LoaderRule LoaderRules MappedFile "
        "Opener OpenFile Pointer SectionUse Share Status UnloadedImage"
    ),
    "common.windows.trace.events": "DllClose DllInstance DllOpen DllPin DllTrace KeptDll",
}

#: A module that only that debugger's own Python has, and the debugger's adapter.
_ADAPTERS = (("gdb", "gdb_ext"), ("lldb", "lldb_ext"), ("pykd", "windbg_ext"))


def open(  # noqa: A001 - as gzip.open
    target: Union[int, str, os.PathLike[str], None] = None,
    *,
    sysroot: Union[str, os.PathLike[str]] = "",
    executable: Union[str, os.PathLike[str]] = "",
    max_size: Optional[int] = None,
) -> Examination:
    """Return an `Examination` of a process, core or dump.

    :param target: an int: the id of a running process, which is neither attached to nor stopped; a str or Path: a core,
        minidump or kernel dump, recognised by its content, compressed or not; None, in a script run by gdb, LLDB,
        WinDbg or pykd: the debugger's current target at each question.
    :param sysroot: the folder below which the files that a core maps are looked for.
    :param executable: the program that dumped the core; cores of qemu-user need it.
    :param max_size: the disk space that the content of a compressed file may take, in bytes (None: 4 GiB).
    :raises TypeError: if ``target`` or an option is of another type.
    :raises NoTargetError: if there is no such process, or it may not be read; for None, if no debugger runs the script.
    :raises DumpFormatError: if the file is not there or cannot be opened, is neither a core nor a dump, damaged, or
        too large.
    :raises UnsupportedError: if its kind or architecture is unknown, or the program that decompresses it is not
        installed.
    :raises NotFoundError: if there is no such ``sysroot`` or ``executable``.
    :raises UsageError: if an option does not fit the target, or ``max_size`` is less than 1.

    Source: /proc/PID (proc(5)); the ELF core format; MINIDUMP_HEADER and DUMP_HEADER of Windows; or the debugger.
    """
    from .common.imports import OwnImports

    with OwnImports():
        from .common.api import Examination, open_named

        if target is not None:
            return Examination(open_named(target, sysroot, executable, max_size))
        if sysroot or executable or max_size is not None:
            from .common.errors import UsageError

            raise UsageError("sysroot, executable and max_size are for files: name one")
        return Examination(_find_host())


def _find_host() -> Host:
    """Return the debugger that runs the script.

    :raises NoTargetError: if no debugger does.
    """
    import sys
    from importlib import import_module

    for module, adapter in _ADAPTERS:
        if module in sys.modules:
            host: Host = import_module(f".{adapter}.commands", __name__).script_host()
            return host
    from .common.errors import NoTargetError

    raise NoTargetError("no debugger runs this script: name a process by its id, or a core or dump by its path")


if not TYPE_CHECKING:  # otherwise a name that does not exist would pass

    def __getattr__(name: str) -> object:
        """Import a public name when it is first asked for (PEP 562)."""
        for module, names in _HOMES.items():
            if name in names.split():
                from .common.imports import OwnImports

                with OwnImports():
                    from importlib import import_module

                    found: object = getattr(import_module(f".{module}", __name__), name)
                globals()[name] = found
                return found
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    """List the public names, and those imported already."""
    return sorted({*globals(), *__all__})
