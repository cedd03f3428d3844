"""How does a script ask, without a command line?

with dlwhy.open_core("core.4711") as process:
    library = process.library("libB.so")
    if library.held:
        print([hold.kind.value for hold in library.holds])
"""

from __future__ import annotations

from types import TracebackType
from typing import Optional

from .errors import NotFoundError
from .linux.model import Library, State
from .linux.plan import plan_all, plan_close
from .linux.plan_model import Plan
from .linux.state.examine import explain, explain_chosen
from .linux.state.matching import select
from .target import Target
from .windows.model import Share
from .windows.share import share_all, share_file


class Examination:
    """A target to ask about; use it in a ``with`` statement, or call `close`."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def __enter__(self) -> Examination:
        """Give itself."""
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let go of the files that were opened for it; a debugger's target has none."""
        close = getattr(self.target, "close", None)
        if close is not None:
            close()

    def state(self) -> State:
        """Examine all libraries, as the target is now.

        :raises DlwhyError: if it cannot be examined.
        """
        return explain(self.target)

    def libraries(self, name: str) -> tuple[Library, ...]:
        """Examine the libraries that a name, soname, end of a path, pattern or address fits.

        :raises NotFoundError: if there is none.
        """
        return explain_chosen(self.target, lambda libraries: select(libraries, name, _number)).libraries

    def library(self, name: str) -> Library:
        """Examine the one library that a name fits.

        :raises NotFoundError: if there is none, or more than one.
        """
        found = self.libraries(name)
        if len(found) > 1:
            raise NotFoundError(f"{len(found)} loaded libraries match '{name}'", [each.path for each in found])
        return found[0]

    def plan(self, name: str, closes: Optional[int] = 1) -> Plan:
        """Predict what closing the one library that a name fits would unload; ``closes`` None: as often as it is open.

        :raises NotFoundError: if there is none, or more than one.
        """
        return plan_close(self.target, name, _number, closes).plans[0]

    def plans(self, closes: Optional[int] = None) -> tuple[Plan, ...]:
        """Predict for each open library what closing it would unload, the largest first.

        :raises DlwhyError: if the target cannot be examined.
        """
        return plan_all(self.target, closes).plans

    def share(self, name: str, pid: Optional[int] = None) -> Share:
        """Judge the mapped files of a Windows machine that a name, path or pattern fits; ``pid``: in that process.

        :raises NotFoundError: if there is none.
        :raises UnsupportedError: if the target is a process, not a machine.
        """
        return share_file(self.target, name, _number, pid)

    def shares(self, pid: Optional[int] = None) -> Share:
        """Judge all files of a Windows machine that are mapped as images; ``pid``: by that process.

        :raises UnsupportedError: if the target is a process, not a machine.
        """
        return share_all(self.target, pid)


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError as error:
        raise NotFoundError(f"'{text}' is no number") from error
