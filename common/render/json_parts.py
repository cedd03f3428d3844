"""Which parts do the JSON documents of several commands share?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Optional, Protocol, TypeVar

from ..model import Evidence, LoaderInfo, Problem, TargetInfo
from .jsontext import dumps

if TYPE_CHECKING:
    from .json_types import EnvelopeHead, EvidenceDocument, ProblemDocument

_T = TypeVar("_T")
_Document = TypeVar("_Document")

SCHEMA = "dlwhy/1"


def problem_documents(problems: Sequence[Problem]) -> list[ProblemDocument]:
    """Build the documents of problems."""
    return [{"where": p.where, "message": p.message} for p in problems]


def dump(document: Mapping[str, object]) -> str:
    """Write a document as text, keys in the order in which they were built."""
    return dumps(document, indent=2) + "\n"


def envelope(command: str, target: TargetInfo, loader: LoaderInfo) -> EnvelopeHead:
    """Build what every document begins with; its problems come last."""
    layout = loader.layout
    return {
        "schema": SCHEMA,
        "command": command,
        "target": {
            "kind": target.kind,
            "os": target.os,
            "arch": target.arch,
            "pid": target.pid,
            "description": target.description,
        },
        "loader": {
            "kind": loader.kind,
            "version": loader.version,
            "layout": {"source": layout.kind.value, "detail": layout.detail} if layout else None,
        },
    }


def hexadecimal(value: int) -> str:
    """Write an address."""
    return f"{value:#x}"


def optional_hexadecimal(value: Optional[int]) -> Optional[str]:
    """Write an address; unknown is null."""
    return None if value is None else hexadecimal(value)


def optional_list(items: Optional[Iterable[_T]], build: Callable[[_T], _Document]) -> Optional[list[_Document]]:
    """Build the document of each item; unknown is null."""
    return None if items is None else [build(item) for item in items]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


def optional_names(instances: Optional[Iterable[_Named]]) -> Optional[list[str]]:
    """Return the names of libraries; unknown is null."""
    return optional_list(instances, lambda each: each.name)


def evidence_document(evidence: Evidence) -> EvidenceDocument:
    """Build the document of a member that was read."""
    return {
        "address": hexadecimal(evidence.address),
        "expression": evidence.expression,
        "value": evidence.value,
    }
