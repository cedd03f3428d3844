"""How does an answer look as JSON?

The contract is ``common/data/schema/dlwhy-1.schema.json``: addresses are hex strings, unknown is null, keys are
added and never renamed.  Only facts of the target go in, so that every debugger gives the same document.
"""

from __future__ import annotations

import json
from typing import Any, Optional

from ..model import Evidence, Hold, HoldKind, Library, LoaderInfo, State, TargetInfo, TlsDestructor

SCHEMA = "dlwhy/1"


def state_document(command: str, state: State) -> dict[str, Any]:
    """Build the document of a state."""
    return {
        **_envelope(command, state.target, state.loader),
        "libraries": [_library(library) for library in state.libraries],
        "problems": [{"where": p.where, "message": p.message} for p in state.problems],
    }


def dump(document: dict[str, Any]) -> str:
    """Write a document as text, keys in the order in which they were built."""
    return json.dumps(document, indent=2) + "\n"


def _envelope(command: str, target: TargetInfo, loader: LoaderInfo) -> dict[str, Any]:
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


def _hex(value: Optional[int]) -> Optional[str]:
    return None if value is None else f"{value:#x}"


def _library(library: Library) -> dict[str, Any]:
    return {
        "name": library.name,
        "path": library.path,
        "soname": library.soname,
        "build_id": library.build_id,
        "base": _hex(library.base),
        "range": [_hex(library.start), _hex(library.end)],
        "namespace": library.namespace,
        "link_map": _hex(library.link_map),
        "proxy": library.proxy,
        "fields": dict(library.fields),
        "held": library.held,
        "holds": [_hold(hold) for hold in library.holds],
        "holds_omitted": library.holds_omitted,
    }


def _hold(hold: Hold) -> dict[str, Any]:
    document: dict[str, Any] = {"kind": hold.kind.value, "evidence": [_evidence(e) for e in hold.evidence]}
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


def _evidence(evidence: Evidence) -> dict[str, Any]:
    return {
        "address": _hex(evidence.address),
        "expression": evidence.expression,
        "value": evidence.value,
    }


def _destructor(destructor: TlsDestructor) -> dict[str, Any]:
    function = destructor.function
    return {
        "thread": {"lwp": destructor.thread.lwp, "name": destructor.thread.name},
        "function": {
            "address": _hex(function.address) if function.address else None,
            "name": function.name,
            "library": function.library,
        },
        "object": _hex(destructor.object),
    }
