"""What does a command receive, and what does it return?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import NamedTuple, cast

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


def document_by(command: str, function: str, answer: object) -> Callable[[], Mapping[str, object]]:
    """Return what builds the document of an answer: most users want the text, so that only then it is imported.

    :param function: in the command's module ``document``; takes the command's name and the answer.
    """

    def build() -> Mapping[str, object]:
        module = import_module(f"{__package__}.{command}.document")
        return cast("Mapping[str, object]", getattr(module, function)(command, answer))

    return build
