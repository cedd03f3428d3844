"""Which failures can a user meet, and what does each carry?

DlwhyError
├── UsageError                 the command line is wrong; carries the usage text
├── NoTargetError              nothing to examine, or no such process; the message says how to select it
├── UnsupportedError           the target cannot answer this question
├── NotFoundError              library, symbol or type; carries near matches
│   └── IncompleteSearchError  none is among what could be read, which is not everything
├── FaultError                 memory cannot be read
│   └── LimitError             one command may read no more of it
├── LayoutError                no structure layout fits; carries what was tried
├── CorruptError               the target's data contradict themselves
├── DumpFormatError            a core or dump is not there, or not what it claims to be
├── SetupError                 install.py cannot do what it was asked to do
│   └── UnusableError          a debugger cannot load dlwhy, or a file stays as it is; another may do
└── OutputError                the answer cannot be written
    └── ClosedOutputError      its reader has closed it

Messages: lower case, no full stop, what happened, then the remedy, on one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from .counts import quantity

#: The most problems that are reported with a failure.
_MAX_REASONS = 3


class DlwhyError(Exception):
    """Base of every failure that is reported to the user without a traceback."""

    def add(self, problems: Sequence[tuple[str, str]]) -> None:
        """Append possible causes to the message, each with what it concerns: unread is not absent."""
        told = [f"{where}: {message}" for where, message in problems[:_MAX_REASONS]]
        self.args = ("; ".join((str(self), *told)),)


class UsageError(DlwhyError):
    """The command line or an argument is wrong; ``usage`` is the command's usage text, empty for none."""

    def __init__(self, message: str, usage: str = "") -> None:
        super().__init__(message)
        self.usage = usage


class NoTargetError(DlwhyError):
    """No process, core or dump is selected, or the process is not there or may not be read, or it has been closed."""


class UnsupportedError(DlwhyError):
    """The target lacks what the question needs."""


class NotFoundError(DlwhyError):
    """The target has no such library, DLL, process or symbol, or a path leads nowhere; ``near`` has similar names."""

    def __init__(self, message: str, near: Sequence[str] = ()) -> None:
        super().__init__(f"{message}; near: {', '.join(near)}" if near else message)
        self.near = tuple(near)


class IncompleteSearchError(NotFoundError):
    """None fits among what could be read of the target, which is not everything: it can be there all the same."""


class FaultError(DlwhyError):
    """Memory of the target cannot be read: ``size`` bytes at ``address``."""

    def __init__(self, address: int, size: int, reason: str = "") -> None:
        super().__init__(f"cannot read {quantity(size, 'byte')} at {address:#x}" + (f": {reason}" if reason else ""))
        self.address = address
        self.size = size


class OmittedFileError(FaultError):
    """Memory that a core omits, because it shows a file that is not here, or is another build; ``why`` says which.

    ``has_remedy`` is False if no file would do, because the core has nothing that shows which one is right.
    """

    def __init__(self, address: int, size: int, path: str, why: str, has_remedy: bool = True) -> None:
        super().__init__(address, size, f"not in the core, and {path} {why}")
        self.path = path
        self.why = why
        self.has_remedy = has_remedy


class LimitError(FaultError):
    """One command may read no more of the target."""

    def __init__(self, address: int, size: int) -> None:
        super().__init__(address, size, "this command has read as much as one may")


class LayoutError(DlwhyError):
    """No known structure layout fits the target; ``tried`` has the candidates."""

    def __init__(self, message: str, tried: Sequence[str] = ()) -> None:
        super().__init__(f"{message}; tried: {'; '.join(tried)}" if tried else message)
        self.tried = tuple(tried)


class CorruptError(DlwhyError):
    """The target's data contradict themselves; ``address`` is where, None if that is not one place."""

    def __init__(self, what: str, address: Optional[int] = None) -> None:
        super().__init__(what if address is None else f"{what} at {address:#x}")
        self.what = what
        self.address = address


class DumpFormatError(DlwhyError):
    """A core or dump is not there or damaged; ``offset`` in it, in bytes, is None if the whole file is meant."""

    def __init__(self, path: str, message: str, offset: Optional[int] = None) -> None:
        where = path if offset is None else f"{path} at offset {offset:#x}"
        super().__init__(f"{where}: {message}")
        self.path = path
        self.offset = offset


class SetupError(DlwhyError):
    """Something cannot be installed, removed, shown or tested."""


class UnusableError(SetupError):
    """A debugger cannot load dlwhy, or a file is left alone; others may work."""


class OutputError(DlwhyError):
    """The answer cannot be written."""


class ClosedOutputError(OutputError):
    """The reader of the output has closed it, as ``head`` does; not a failure."""
