"""What does a command work on, and what does it give back?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..host import Host
from ..render.document import Document
from ..target import Target


class Session(NamedTuple):
    """What one run of a command works on."""

    host: Host

    @property
    def target(self) -> Target:
        """Return what is examined.

        :raises NoTargetError: if there is nothing.
        """
        return self.host.target()


class Result(NamedTuple):
    """What a command found: its JSON document, its words, whether something could not be established, or is wrong."""

    document: Callable[[], Mapping[str, object]]
    view: Callable[[bool], Document]
    has_problems: bool
    has_findings: bool
