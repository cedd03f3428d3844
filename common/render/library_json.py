"""What does the JSON of a library verdict contain?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Union, cast

from ..linux.model import CodeSymbol, Hold, HoldKind, Library, StaticTls, TlsDestructor
from ..linux.rebuild_model import Rebuild
from ..model import ThreadRef
from .json_parts import evidence_document, hexadecimal, optional_hexadecimal

if TYPE_CHECKING:
    from ..linux.trace.events import LibraryInstance
    from .json_types import (
        DestructorDocument,
        FunctionDocument,
        HoldDocument,
        KeptLibraryDocument,
        PlaceDocument,
        RebuildDocument,
        ReferenceDocument,
        StaticTlsDocument,
        ThreadDocument,
    )


def place_document(library: Union[Library, LibraryInstance]) -> PlaceDocument:
    """Build the keys that say where a library is mapped."""
    start, end = library.start, library.end
    return {
        "base": optional_hexadecimal(library.base),
        "load_bias": optional_hexadecimal(library.load_bias),
        "range": None if start is None or end is None else [hexadecimal(start), hexadecimal(end)],
    }


def library_reference(library: Library) -> ReferenceDocument:
    """Build the reference to a library."""
    return {
        "name": library.name,
        "path": library.path,
        "namespace": library.namespace,
        "link_map": hexadecimal(library.link_map),
        **place_document(library),
    }


def kept_document(library: Library) -> KeptLibraryDocument:
    """Build the document of a library that stays."""
    return {
        **library_reference(library),
        "held": library.held,
        "holds": [hold_document(hold) for hold in library.holds],
        "holds_omitted": library.holds_omitted,
    }


def thread_document(thread: ThreadRef) -> ThreadDocument:
    """Build the reference to a thread."""
    return {"tid": thread.tid, "name": thread.name}


def hold_document(hold: Hold) -> HoldDocument:
    """Build the document of a hold; members that its kind needs are never None."""
    document: HoldDocument = {"kind": hold.kind.value, "evidence": [evidence_document(e) for e in hold.evidence]}
    if hold.kind is HoldKind.STARTUP:
        document["origin"] = hold.origin
    elif hold.kind is HoldKind.OPEN_COUNT:
        document["count"] = cast("int", hold.total)
        document["opened_by"] = cast("str", hold.origin)
    elif hold.kind is HoldKind.NODELETE:
        document["origin"] = hold.origin
        document["symbols"] = list(hold.symbols)
        document["symbols_omitted"] = hold.symbols_omitted
        document["dlclose_returns_early"] = hold.dlclose_returns_early
    elif hold.kind is HoldKind.TLS_DESTRUCTORS:
        document["count"] = cast("int", hold.total)
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


def rebuild_document(rebuild: Rebuild) -> RebuildDocument:
    """Build the document of what would let a library go in another process."""
    obstacle = rebuild.obstacle
    return {
        "fixes": [
            {
                "fix": fix.kind.value,
                "library": fix.library,
                "symbols": list(fix.symbols),
                "symbols_omitted": fix.symbols_omitted,
                "bound_by": list(fix.bound_by),
                "ways": [way.value for way in fix.ways],
            }
            for fix in rebuild.fixes
        ],
        "obstacle": {"kind": obstacle.kind.value, "library": obstacle.library} if obstacle else None,
    }


def function_document(function: CodeSymbol) -> FunctionDocument:
    """Build the document of a function."""
    return {
        "address": optional_hexadecimal(function.address or None),
        "name": function.name,
        "library": function.library,
    }


def _destructor(destructor: TlsDestructor) -> DestructorDocument:
    function = destructor.function
    return {
        "thread": thread_document(destructor.thread) if destructor.thread else None,
        "function": function_document(function),
        "object": hexadecimal(destructor.object),
        "variable": destructor.variable,
    }


def static_tls_document(found: Optional[StaticTls]) -> Optional[StaticTlsDocument]:
    """Build the document of what is left of the static TLS block; unknown is null."""
    if found is None:
        return None
    return {
        "size": found.size,
        "free": found.free,
        "held": [{"library": name, "size": size} for name, size in found.held],
        "lost": found.lost,
    }
