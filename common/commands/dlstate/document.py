"""What does the JSON of dlstate contain?

The contract is ``common/data/schema/dlwhy-1.schema.json``: addresses are hex strings, unknown is null, keys are added
and never renamed.  It contains only facts of the target, so that the document is the same in every debugger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...linux.model import Library, State
from ...render.json_parts import envelope, optional_hexadecimal, problem_documents
from ...render.library_json import hold_document, place_document, rebuild_document, static_tls_document

if TYPE_CHECKING:
    from ...render.json_types import DlstateDocument, LibraryDocument


def state_document(command: str, state: State) -> DlstateDocument:
    """Build the document of a state."""
    return {
        **envelope(command, state.target, state.loader),
        "libraries": [_library(library, is_asked=state.asked is not None) for library in state.libraries],
        "static_tls": static_tls_document(state.static_tls),
        "problems": problem_documents(state.problems),
    }


def _library(library: Library, is_asked: bool) -> LibraryDocument:
    place = place_document(library)
    document: LibraryDocument = {
        "name": library.name,
        "path": library.path,
        "soname": library.soname,
        "build_id": library.build_id,
        "base": place["base"],
        "load_bias": place["load_bias"],
        "range": place["range"],
        "namespace": library.namespace,
        "link_map": optional_hexadecimal(library.link_map or None),
        "proxy": library.proxy,
        "fields": dict(library.fields),
        "held": library.held,
        "holds": [hold_document(hold) for hold in library.holds],
        "holds_omitted": library.holds_omitted,
        "file_state": library.file_state,
    }
    if is_asked:
        document["rebuild"] = rebuild_document(library.rebuild) if library.rebuild else None
    return document
