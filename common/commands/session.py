"""What does a command receive, and what does it return?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..host import Host
from ..render.document import Document
from ..target import Target


class Session(NamedTuple):
    """The input of one run of a command."""

    host: Host

    @property
    def target(self) -> Target:
        """Return the target to examine.

        :raises NoTargetError: if none is selected.
        """
        return self.host.target()


class Result(NamedTuple):
    """The result of a command: its JSON document, its text, and whether there are problems or findings."""

    document: Callable[[], Mapping[str, object]]
    view: Callable[[bool], Document]
    has_problems: bool
    has_findings: bool
