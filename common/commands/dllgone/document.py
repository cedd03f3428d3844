"""What does the JSON of dllgone contain?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...render.json_parts import envelope, hexadecimal, optional_hexadecimal, problem_documents
from ...windows.model import Crash, CrashCaller, GoneDll, GoneDlls, Pointer

if TYPE_CHECKING:
    from ...render.json_types import (
        CrashCallerDocument,
        CrashDocument,
        DllgoneDocument,
        PointerDocument,
        UnloadedDllDocument,
    )


def dll_gone_document(command: str, answer: GoneDlls) -> DllgoneDocument:
    """Build the document of what was unloaded."""
    return {
        **envelope(command, answer.target, answer.loader),
        "address": optional_hexadecimal(answer.address),
        "loaded_at_address": answer.loaded_at_address,
        "overwritten_events": answer.overwritten_events,
        "records": list(answer.records),
        "crash": None if answer.crash is None else _crash(answer.crash),
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
        "in_exception": pointer.in_exception,
    }


def _crash(crash: Crash) -> CrashDocument:
    return {
        "thread": {"tid": crash.thread.tid, "name": crash.thread.name},
        "code": f"{crash.code:#010x}",
        "address": hexadecimal(crash.address),
        "access": crash.access,
        "words": [
            {
                "role": word.role,
                "value": hexadecimal(word.value),
                "register": word.register,
                "module": word.module,
                "offset": word.offset,
                "unloaded": word.unloaded,
            }
            for word in crash.words
        ],
        "caller": None if crash.caller is None else _caller(crash.caller),
    }


def _caller(caller: CrashCaller) -> CrashCallerDocument:
    return {
        "return_address": hexadecimal(caller.return_address),
        "stack_address": optional_hexadecimal(caller.stack_address),
        "module": caller.module,
        "offset": caller.offset,
    }
