"""How does a verdict on a library of an ELF system look as JSON?"""

from __future__ import annotations

from typing import Any

from ..linux.model import Hold, HoldKind, Library, TlsDestructor
from ..model import ThreadRef
from .json_parts import evidence_document, hexadecimal


def library_reference(library: Library) -> dict[str, Any]:
    """Build what identifies a library in a document."""
    return {
        "name": library.name,
        "path": library.path,
        "namespace": library.namespace,
        "link_map": hexadecimal(library.link_map),
    }


def kept_document(library: Library) -> dict[str, Any]:
    """Build the document of a library that stays."""
    return {
        **library_reference(library),
        "held": library.held,
        "holds": [hold_document(hold) for hold in library.holds],
        "holds_omitted": library.holds_omitted,
    }


def thread_document(thread: ThreadRef) -> dict[str, Any]:
    """Build what identifies a thread in a document."""
    return {"lwp": thread.lwp, "name": thread.name}


def hold_document(hold: Hold) -> dict[str, Any]:
    """Build the document of a hold."""
    document: dict[str, Any] = {"kind": hold.kind.value, "evidence": [evidence_document(e) for e in hold.evidence]}
    if hold.kind is HoldKind.STARTUP:
        document["origin"] = hold.origin
    elif hold.kind is HoldKind.OPEN_COUNT:
        document["count"] = hold.total
        document["opened_by"] = hold.origin
    elif hold.kind is HoldKind.NODELETE:
        document["origin"] = hold.origin
        document["symbols"] = list(hold.symbols)
        document["symbols_omitted"] = hold.symbols_omitted
        document["early_return"] = hold.early_return
    elif hold.kind is HoldKind.TLS_DESTRUCTORS:
        document["count"] = hold.total
        document["destructors"] = [_destructor(d) for d in hold.destructors]
    elif hold.kind in (HoldKind.DEPENDENCY, HoldKind.RELOCATION):
        document["chain"] = list(hold.chain)
        if hold.root:
            document["root"] = {
                "library": hold.root.library,
                "kinds": [k.value for k in hold.root.kinds],
                "opened_by": hold.root.opened_by,
            }
        if hold.kind is HoldKind.RELOCATION:
            document["symbols"] = list(hold.symbols)
            document["symbols_omitted"] = hold.symbols_omitted
    return document


def _destructor(destructor: TlsDestructor) -> dict[str, Any]:
    function = destructor.function
    return {
        "thread": thread_document(destructor.thread),
        "function": {
            "address": hexadecimal(function.address) if function.address else None,
            "name": function.name,
            "library": function.library,
        },
        "object": hexadecimal(destructor.object),
    }
