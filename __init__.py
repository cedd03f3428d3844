"""Explain dynamic libraries: why one is still loaded, what a close would unload, and whether that is safe."""

from __future__ import annotations

# python -m dlwhy imports this while modules of the current folder come first: nothing is imported here, typing neither.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from .common.api import Examination
    from .common.target import Target

__version__ = "0.1.0"

__all__ = ["__version__", "examine", "open_core", "open_dump", "open_pid"]


def open_pid(pid: int) -> Examination:
    """Open a running process by its id; it is neither attached to nor stopped.

    :raises DlwhyError: if it does not exist or may not be read.
    """
    from .common.linux.dumps.procfs import ProcTarget

    return examine(ProcTarget(pid))


def open_core(path: str, sysroot: str = "", executable: str = "", max_size: Optional[int] = None) -> Examination:
    """Open a core file; the files that it maps are looked for below ``sysroot``, its program is ``executable``.

    ``max_size`` is how much room on disk the content of a compressed one may take, in bytes (None: 4 GiB).

    :raises DlwhyError: if it is no core that can be read.
    """
    from .common.charset import own_path
    from .common.open import open_core as open_target

    return examine(open_target(own_path(path), own_path(sysroot), own_path(executable), max_size))


def open_dump(path: str, max_size: Optional[int] = None) -> Examination:
    """Open a dump of Windows.

    ``max_size`` is how much room on disk the content of a compressed one may take, in bytes (None: 4 GiB).

    :raises DlwhyError: if it is none that can be read.
    """
    from .common.charset import own_path
    from .common.open import open_dump as open_target

    return examine(open_target(own_path(path), max_size))


def examine(target: Target) -> Examination:
    """Examine any target, such as ``dlwhy.gdb_ext.target.selected_target()`` inside gdb."""
    from .common.api import Examination

    return Examination(target)
