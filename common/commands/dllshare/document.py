"""How does the answer about mapped files look as JSON?  The contract is that of `jsonout`."""

from __future__ import annotations

from typing import Any, Optional

from ...render.json_parts import envelope, evidence_document, hexadecimal, problem_documents
from ...windows.model import MappedFile, Opener, OpenFile, Operation, SectionUse, Share, View


def share_document(command: str, share: Share) -> dict[str, Any]:
    """Build the document of mapped files."""
    return {
        **envelope(command, share.target, share.loader),
        "files": [_file(file) for file in share.files],
        "handles_complete": share.handles_complete,
        "problems": problem_documents(share.problems),
    }


def _file(file: MappedFile) -> dict[str, Any]:
    main = file.sections[0] if file.sections else None
    return {
        "file": file.name,
        "file_name_address": hexadecimal(file.name_address),
        "device": hexadecimal(file.device),
        "control_area": hexadecimal(main.control_area) if main else None,
        **_file_object(file.file),
        "section": _section_word(file),
        "sections": [_section(section) for section in file.sections],
        "mappings": [_mapping(mapping) for mapping in file.mappings],
        "openers": [_opener(opener) for opener in file.openers],
        "operations": [_operation(operation) for operation in file.operations],
        "evidence": [evidence_document(evidence) for evidence in file.evidence],
    }


def _file_object(file: OpenFile) -> dict[str, Any]:
    return {
        "file_object": hexadecimal(file.address),
        "fast_ref": file.fast_ref,
        "access": file.access,
        "sharing": {
            "read": "r" in file.sharing,
            "write": "w" in file.sharing,
            "delete": "d" in file.sharing,
            "enforced": file.open,
        },
        "access_string": file.access + file.sharing,
        "delete_pending": file.delete_pending,
    }


def _section_word(file: MappedFile) -> Optional[str]:
    kinds = {section.image for section in file.sections}
    return "both" if len(kinds) > 1 else "image" if True in kinds else "data" if kinds else None


def _section(section: SectionUse) -> dict[str, Any]:
    return {
        "control_area": hexadecimal(section.control_area),
        "kind": "image" if section.image else "data",
        "section_references": section.section_references,
        "mapped_views": section.mapped_views,
        "user_references": section.user_references,
        "writable_references": section.writable_references,
        "live": section.live,
    }


def _mapping(mapping: View) -> dict[str, Any]:
    return {
        "pid": mapping.pid,
        "process": mapping.process,
        "base": hexadecimal(mapping.base),
        "end": hexadecimal(mapping.end),
        "vad": hexadecimal(mapping.vad),
        "as": "image" if mapping.image else "data",
        "protection": mapping.protection,
        "commit": mapping.commit,
        "wow64": mapping.wow64,
    }


def _opener(opener: Opener) -> dict[str, Any]:
    file = _file_object(opener.file)
    del file["fast_ref"]
    return {
        "pid": opener.pid,
        "process": opener.process,
        "handle": hexadecimal(opener.handle),
        "granted_access": hexadecimal(opener.granted_access),
        **file,
    }


def _operation(operation: Operation) -> dict[str, Any]:
    status = operation.status
    return {
        "name": operation.name,
        "possible": operation.possible.value,
        "ntstatus": f"0x{status.ntstatus:08X}" if status else None,
        "ntstatus_name": status.name if status else None,
        "win32": status.win32 if status else None,
        "win32_name": status.win32_name if status else None,
        "why": operation.why,
    }
