"""What contradicts what the kernel notes of a file's sections, views and opens?

Much is there twice: views in VADs and as counts of the section, image or data in the VAD, the section and the file's
section object pointers, an open in a handle table and in the file object's Flags, and which file it is in the section
object pointers and in FsContext, of which file systems keep one each for a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Optional

from ...counts import quantity
from .files import ControlArea, FileObject
from .vad import VAD_IMAGE_MAP, VAD_NONE, Vad


def compare_with_views(area: ControlArea, views: Sequence[Vad]) -> Iterator[str]:
    """Yield what contradicts the kind or the counts of a section, given its views that were found."""
    where = f"of the section {area.address:#x}"
    for vad in views:
        if not vad.is_view:
            yield f"by VadFlags the VAD at {vad.address:#x} maps nothing, but it names the section {area.address:#x}"
        elif vad.image != area.image and vad.kind in (VAD_NONE, VAD_IMAGE_MAP):
            mine, its = ("an image", "data") if vad.image else ("data", "an image")
            yield f"by VadFlags the VAD at {vad.address:#x} maps {mine}, but by u.Flags {where} that is {its}"
    if area.mapped_views < len(views):
        yield f"NumberOfMappedViews {where} is {area.mapped_views}, but {quantity(len(views), 'view')} of it found"
    if not area.image and views and not area.user_references:
        yield f"NumberOfUserReferences {where} is 0, but {quantity(len(views), 'view')} of it found"
    if (area.writable_references or 0) > area.user_references:
        yield (
            f"WritableUserReferences {where} is {area.writable_references}, but NumberOfUserReferences "
            f"{area.user_references}"
        )


def compare_with_pointers(
    area: ControlArea, file: Optional[FileObject], pointers: int, *, is_image: bool
) -> Iterator[str]:
    """Yield that a section is of another kind or file than the section object pointers that name it say.

    :param file: the section's own file object.
    """
    member = "ImageSectionObject" if is_image else "DataSectionObject"
    if area.image != is_image:
        flags = "an image" if area.image else "data"
        yield f"{member} at {pointers:#x} is the section {area.address:#x}, but by its u.Flags that is {flags}"
    elif file is not None and file.section_object_pointer != pointers:
        yield (
            f"{member} at {pointers:#x} is the section {area.address:#x}, but SectionObjectPointer of its file object "
            f"{file.address:#x} is {file.section_object_pointer:#x}"
        )


def compare_with_handles(file: FileObject, handles: int, count: Optional[int]) -> Iterator[str]:
    """Yield what contradicts whether, and how often, a file object is open.

    :param handles: how many handles of it were found, in all handle tables.
    :param count: how many there are by its header.
    """
    where = f"of the file object {file.address:#x}"
    if not file.cleaned_up and not handles:
        yield f"by Flags {where} a handle of it is open, but no handle table has one"
    if count is not None and count < handles:
        yield f"HandleCount {where} is {count}, but {quantity(handles, 'handle')} of it found"


def compare_contexts(files: Iterable[FileObject]) -> Mapping[int, Sequence[str]]:
    """Return what contradicts of which file a file object is, by the section object pointers."""
    by_context: dict[int, dict[int, FileObject]] = {}
    by_pointers: dict[int, dict[int, FileObject]] = {}
    for file in files:
        by_context.setdefault(file.context, {}).setdefault(file.section_object_pointer, file)
        by_pointers.setdefault(file.section_object_pointer, {}).setdefault(file.context, file)
    found: dict[int, list[str]] = {}
    for groups, is_context in ((by_context, True), (by_pointers, False)):
        for value, group in groups.items():
            # 0 is of many: what is no file of a file system, or has no sections.
            if value and len(group) > 1:
                first, second = list(group.values())[:2]
                names = ("FsContext", "SectionObjectPointer")
                same, other = names if is_context else names[::-1]
                one, two = list(group)[:2]
                text = (
                    f"{same} of the file objects {first.address:#x} and {second.address:#x} is {value:#x}, but {other} "
                    f"{one:#x} and {two:#x}"
                )
                for file in group.values():
                    found.setdefault(file.section_object_pointer or file.address, []).append(text)
    return found
