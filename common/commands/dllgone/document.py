"""How does the answer of dllgone look as JSON?"""

from __future__ import annotations

from typing import Any

from ...render.json_parts import envelope, hexadecimal, problem_documents
from ...windows.model import GoneDll, GoneDlls, Pointer


def dll_gone_document(command: str, answer: GoneDlls) -> dict[str, Any]:
    """Build the document of what was unloaded."""
    return {
        **envelope(command, answer.target, answer.loader),
        "address": hexadecimal(answer.address),
        "loaded": answer.loaded,
        "lost": answer.lost,
        "unloaded": [_gone(gone) for gone in answer.gone],
        "problems": problem_documents(answer.problems),
    }


def _gone(gone: GoneDll) -> dict[str, Any]:
    image = gone.image
    return {
        "name": image.name,
        "range": [hexadecimal(image.base), hexadecimal(image.base + image.size)],
        "timestamp": image.timestamp,
        "checksum": image.checksum,
        "sequence": image.sequence,
        "symbol": None,
        "offset": gone.offset,
        "confidence": gone.confidence,
        "evidence": list(gone.sources),
        "pointers": [_pointer(pointer) for pointer in gone.pointers],
        "pointers_omitted": gone.pointers_omitted,
    }


def _pointer(pointer: Pointer) -> dict[str, Any]:
    return {
        "thread": {"lwp": pointer.thread.lwp, "name": pointer.thread.name},
        "value": hexadecimal(pointer.value),
        "register": pointer.register,
        "address": hexadecimal(pointer.address),
    }
