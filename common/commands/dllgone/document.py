"""What does the JSON of dllgone contain?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...render.json_parts import envelope, hexadecimal, optional_hexadecimal, problem_documents
from ...windows.model import GoneDll, GoneDlls, Pointer

if TYPE_CHECKING:
    from ...render.json_types import DllgoneDocument, PointerDocument, UnloadedDllDocument


def dll_gone_document(command: str, answer: GoneDlls) -> DllgoneDocument:
    """Build the document of what was unloaded."""
    return {
        **envelope(command, answer.target, answer.loader),
        "address": optional_hexadecimal(answer.address),
        "loaded_at_address": answer.loaded_at_address,
        "overwritten_events": answer.overwritten_events,
        "unloaded": [_gone(gone) for gone in answer.unloaded],
        "problems": problem_documents(answer.problems),
    }


def _gone(gone: GoneDll) -> UnloadedDllDocument:
    image = gone.image
    return {
        "name": image.name or None,
        "range": [hexadecimal(image.base), hexadecimal(image.base + image.size)],
        "timestamp": image.timestamp,
        "checksum": image.checksum,
        "sequence": image.sequence,
        "offset": gone.offset,
        "confidence": gone.confidence,
        "sources": list(gone.sources),
        "pointers": [_pointer(pointer) for pointer in gone.pointers],
        "pointers_omitted": gone.pointers_omitted,
    }


def _pointer(pointer: Pointer) -> PointerDocument:
    return {
        "thread": {"tid": pointer.thread.tid, "name": pointer.thread.name},
        "value": hexadecimal(pointer.value),
        "register": pointer.register,
        "address": optional_hexadecimal(pointer.address),
    }
