"""What does the JSON of dllshare contain?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from ...render.json_parts import (
    envelope,
    evidence_document,
    hexadecimal,
    optional_hexadecimal,
    problem_documents,
)
from ...windows.model import FileOperation, FileView, MappedFile, Opener, OpenFile, SectionUse, Share

if TYPE_CHECKING:
    from ...render.json_types import (
        DllshareDocument,
        FileAccessDocument,
        FileObjectDocument,
        MappedFileDocument,
        MappingDocument,
        OpenerDocument,
        OperationDocument,
        SectionDocument,
    )


def share_document(command: str, share: Share) -> DllshareDocument:
    """Build the document of mapped files."""
    return {
        **envelope(command, share.target, share.loader),
        "files": [_file(file) for file in share.files],
        "handles_complete": share.handles_complete,
        "problems": problem_documents(share.problems),
    }


def _file(file: MappedFile) -> MappedFileDocument:
    main = file.sections[0] if file.sections else None
    own = None if file.file is None else _file_object(file.file)
    return {
        "file_name": file.file_name,
        "file_name_source": file.file_name_source,
        "image_bytes": file.image_bytes,
        "timestamp": file.timestamp,
        "link_time": file.link_time,
        "file_name_address": optional_hexadecimal(file.file_name_address),
        "device_object": optional_hexadecimal(file.device_object),
        "control_area": optional_hexadecimal(main.control_area if main else None),
        "file_object": own["file_object"] if own else None,
        "access": own["access"] if own else None,
        "sharing": own["sharing"] if own else None,
        "access_string": own["access_string"] if own else None,
        "delete_pending": own["delete_pending"] if own else None,
        "fast_ref": file.file.fast_ref if file.file else None,
        "section_kind": _section_word(file),
        "sections": [_section(section) for section in file.sections],
        "mappings": [_mapping(mapping) for mapping in file.mappings],
        "openers": [_opener(opener) for opener in file.openers],
        "operations": [_operation(operation) for operation in file.operations],
        "evidence": [evidence_document(evidence) for evidence in file.evidence],
    }


def _file_object(file: OpenFile) -> FileObjectDocument:
    return {
        "file_object": hexadecimal(file.address),
        "access": _access(file),
        "sharing": {
            "read": "r" in file.sharing,
            "write": "w" in file.sharing,
            "delete": "d" in file.sharing,
            "enforced": file.open,
        },
        "access_string": file.access + file.sharing,
        "delete_pending": file.delete_pending,
    }


def _access(file: OpenFile) -> FileAccessDocument:
    return {"read": "R" in file.access, "write": "W" in file.access, "delete": "D" in file.access}


def _section_word(file: MappedFile) -> Optional[str]:
    kinds = {section.image for section in file.sections}
    return "both" if len(kinds) > 1 else "image" if True in kinds else "data" if kinds else None


def _section(section: SectionUse) -> SectionDocument:
    return {
        "control_area": hexadecimal(section.control_area),
        "kind": "image" if section.image else "data",
        "section_references": section.section_references,
        "mapped_views": section.mapped_views,
        "user_references": section.user_references,
        "writable_references": section.writable_references,
        "in_use": section.in_use,
    }


def _mapping(mapping: FileView) -> MappingDocument:
    return {
        "pid": mapping.pid,
        "process_name": mapping.process_name,
        "range": [hexadecimal(mapping.base), hexadecimal(mapping.end + 1)],
        "vad": optional_hexadecimal(mapping.vad),
        "section_kind": "image" if mapping.image else "data",
        "protection": mapping.protection,
        "commit_pages": mapping.commit_pages,
        "wow64": mapping.wow64,
    }


def _opener(opener: Opener) -> OpenerDocument:
    return {
        "pid": opener.pid,
        "process_name": opener.process_name,
        "handle": hexadecimal(opener.handle),
        "object_kind": "section" if opener.section else "file",
        "granted_access": hexadecimal(opener.granted_access),
        **_file_object(opener.file),
    }


def _operation(operation: FileOperation) -> OperationDocument:
    status = operation.status
    return {
        "name": operation.name,
        "allowed": operation.allowed.value,
        "ntstatus": f"{status.ntstatus:#010x}" if status else None,
        "ntstatus_name": status.name if status else None,
        "win32_error": status.win32_error if status else None,
        "win32_error_name": status.win32_error_name if status else None,
        "reason": operation.reason,
    }
