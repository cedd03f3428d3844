"""Make a kernel's image and its PDB from a layout, by clang and lld-link: what a debugger takes the types from.

    image = compile_kernel(layout, folder)
    machine = Machine(layout, image=image)

The image is named ntkrnlmp.exe, its PDB ntkrnlmp.pdb.  Both are made anew each time, so the PDB's GUID is none of
Microsoft's.
"""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple, Union

from .ntlayout import Windows

# Globals that the writer fills in, with their sizes in bytes.
_GLOBALS = {
    "KdpDataList": 16,
    "KeTimeIncrement": 8,
    "MmPfnDatabase": 8,
    "MmHighestUserAddress": 8,
    "MmSystemRangeStart": 8,
    "MmUserProbeAddress": 8,
    "CmNtCSDVersion": 8,
    "PspCidTable": 8,
    "KiBugcheckData": 64,
    "NtBuildLab": 64,
    "KiGdt": 256,
    "MmProtectToValue": 128,
    "KiProcessorBlock": 512,
    "KdDebuggerDataBlock": 0x360,
    "KiNtEntry": 0x100,
    "KiNtNames": 0x100,
    "KiInitialPCR": 0x3000,
    "KiStack": 0x2000,
}
_LISTS = ("PsActiveProcessHead", "PsLoadedModuleList")

# Members whose C type matters to a debugger's own code, or to people who look with dt.
_TYPED = {
    ("_EPROCESS", "Pcb"): "struct _KPROCESS",
    ("_EPROCESS", "ObjectTable"): "struct _HANDLE_TABLE *",
    ("_EPROCESS", "ActiveProcessLinks"): "struct _LIST_ENTRY",
    ("_MMVAD", "ControlArea"): "struct _CONTROL_AREA *",
    ("_MMVAD", "Core"): "struct _MMVAD_SHORT",
    ("_MMVAD", "ViewLinks"): "struct _LIST_ENTRY",
    ("_MMVAD", "Subsection"): "struct _SUBSECTION *",
    ("_MMVAD_SHORT", "VadNode"): "struct _RTL_BALANCED_NODE",
    ("_MMVAD", "LeftChild"): "struct _MMVAD *",
    ("_MMVAD", "RightChild"): "struct _MMVAD *",
    ("_MMVAD_SHORT", "LeftChild"): "struct _MMVAD *",
    ("_MMVAD_SHORT", "RightChild"): "struct _MMVAD *",
    ("_MMADDRESS_NODE", "LeftChild"): "struct _MMADDRESS_NODE *",
    ("_MMADDRESS_NODE", "RightChild"): "struct _MMADDRESS_NODE *",
    ("_SUBSECTION", "ControlArea"): "struct _CONTROL_AREA *",
    ("_CONTROL_AREA", "u.Flags"): "struct _MMSECTION_FLAGS",
    ("_CONTROL_AREA", "Segment"): "struct _SEGMENT *",
    ("_CONTROL_AREA", "FilePointer"): "struct _EX_FAST_REF",
    ("_FILE_OBJECT", "FileName"): "struct _UNICODE_STRING",
    ("_FILE_OBJECT", "SectionObjectPointer"): "struct _SECTION_OBJECT_POINTERS *",
    ("_KTHREAD", "ApcState"): "struct _KAPC_STATE",
    ("_LIST_ENTRY", "Flink"): "struct _LIST_ENTRY *",
    ("_LIST_ENTRY", "Blink"): "struct _LIST_ENTRY *",
    ("_RTL_BALANCED_NODE", "Left"): "struct _RTL_BALANCED_NODE *",
    ("_RTL_BALANCED_NODE", "Right"): "struct _RTL_BALANCED_NODE *",
    ("_RTL_AVL_TREE", "Root"): "struct _RTL_BALANCED_NODE *",
    ("_UNICODE_STRING", "Buffer"): "unsigned short *",
}
# The same where the member has this name in any structure.
_TYPED_ANYWHERE = {
    "VadFlags": "struct _MMVAD_FLAGS",
    "VadFlags1": "struct _MMVAD_FLAGS1",
    "BalancedRoot": "struct _MMADDRESS_NODE",
}
_UNSIGNED = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "unsigned long long"}


class KernelImage(NamedTuple):
    """A kernel's image as it lies in memory, the offsets of its globals, and where its files are."""

    content: bytes
    base: int
    symbols: dict[str, int]
    path: Path
    pdb: Path


Tree = dict[str, Union["Tree", list[int]]]


def compile_kernel(layout: Windows, folder: Path) -> KernelImage:
    """Compile and link the kernel's image into a folder.

    :raises subprocess.CalledProcessError: with what the compiler said.
    """
    wide = layout.pointer_size == 8
    base = 0xFFFFF80012000000 if wide else 0x82800000
    source, made = folder / "nt.c", folder / "nt.obj"
    source.write_text(c_source(layout))
    machine = "x86_64" if wide else "i686"
    compiler = ["clang", f"--target={machine}-pc-windows-msvc", "-std=gnu11", "-g", "-gcodeview", "-O0", "-w", "-c"]
    options = ["-ffreestanding", "-fno-stack-protector", "-mno-red-zone" if wide else "-mno-sse"]
    subprocess.run([*compiler, *options, str(source), "-o", str(made)], check=True, capture_output=True)
    names = ["/pdb:ntkrnlmp.pdb", "/pdbaltpath:ntkrnlmp.pdb", "/map:nt.map", "/out:ntkrnlmp.exe"]
    entry = "/entry:KiSystemStartup"
    kind = ["/nodefaultlib", entry, "/subsystem:native", "/fixed", f"/base:{base:#x}", "/debug:full", "/safeseh:no"]
    subprocess.run(["lld-link", *kind, *names, made.name], check=True, capture_output=True, cwd=folder)
    path = folder / "ntkrnlmp.exe"
    return KernelImage(
        in_memory(path.read_bytes()), base, read_map(folder / "nt.map", base, wide), path, folder / "ntkrnlmp.pdb"
    )


def in_memory(file: bytes) -> bytes:
    """Lay a PE file out as the loader does."""
    header = struct.unpack_from("<I", file, 0x3C)[0]
    sections, optional = struct.unpack_from("<H12xH", file, header + 6)
    size, headers = struct.unpack_from("<II", file, header + 24 + 56)
    content = bytearray(-(-size // 4096) * 4096)
    content[:headers] = file[:headers]
    for number in range(sections):
        at = header + 24 + optional + 40 * number
        virtual, address, raw, offset = struct.unpack_from("<IIII", file, at + 8)
        length = min(raw, virtual)
        content[address : address + length] = file[offset : offset + length]
    return bytes(content)


def read_map(path: Path, base: int, wide: bool) -> dict[str, int]:
    """Read the offsets of the globals from lld-link's map file; x86 C names begin with an underscore."""
    found = {}
    for match in re.finditer(r"^ \S+\s+(\S+)\s+([0-9a-f]{8,16})\b", path.read_text(), re.MULTILINE):
        found[match[1] if wide else match[1].removeprefix("_")] = int(match[2], 16) - base
    return {name: found[name] for name in (*_GLOBALS, *_LISTS, "KeBugCheckEx")}


def c_source(layout: Windows) -> str:
    """Write C that declares every structure of a layout with its members in their places, and the globals."""
    written: list[str] = []
    lines = ["/* Made from a layout: every member where it was, gaps filled. */", "#pragma pack(push, 1)"]

    def declare(name: str) -> None:
        if name in written or name not in layout.structs:
            return
        written.append(name)
        struct_ = layout.structs[name]
        for member in struct_["fields"]:
            nested = member_type(layout, name, member).removeprefix("struct ")
            if nested and not nested.endswith("*"):
                declare(nested)
        lines.append(f"struct {name} {{")
        lines.extend(_body(layout, name, member_tree(struct_["fields"]), struct_["size"], 0, "", 1))
        lines.append("};")
        lines.append(f'_Static_assert(sizeof(struct {name}) == {struct_["size"]}, "{name}");')

    for name in sorted(layout.structs):
        declare(name)
    lines.append("#pragma pack(pop)")
    for name in sorted(layout.structs):
        # A type that nothing uses is not in the PDB.
        lines.append(f"struct {name} *Use{name};")
    for name in _LISTS:
        lines.append(f"struct _LIST_ENTRY {name} = {{ 1, 1 }};")
    for name, size in _GLOBALS.items():
        lines.append(f"__attribute__((aligned(16))) unsigned char {name}[{size}] = {{ 1 }};")
    lines.append("volatile int KiSpin;")
    lines.append("void KeBugCheckEx(void) { for (;;) KiSpin++; }")
    lines.append("void KiSystemStartup(void) { KeBugCheckEx(); }")
    return "\n".join(lines) + "\n"


def member_type(layout: Windows, struct_name: str, member: str) -> str:
    """Give the C type of a member where that matters, else nothing."""
    if (struct_name, member) == ("_EPROCESS", "VadRoot"):
        size = layout.structs[struct_name]["fields"][member][1]
        trees = ("_MM_AVL_TABLE", "_RTL_AVL_TREE")
        found = (name for name in trees if layout.structs.get(name, {}).get("size") == size)
        return f"struct {next(found, '_MMVAD *')}"
    return _TYPED.get((struct_name, member), _TYPED_ANYWHERE.get(member.rpartition(".")[2], ""))


def member_tree(fields: dict[str, list[int]]) -> Tree:
    """Nest the members of unnamed structures, whose names have dots."""
    root: Tree = {}
    for name, field in fields.items():
        place = root
        *outer, last = name.split(".")
        for part in outer:
            inner = place.setdefault(part, {})
            assert isinstance(inner, dict)
            place = inner
        place[last] = field
    return root


def extent(node: Union[Tree, list[int]]) -> tuple[int, int]:
    if isinstance(node, list):
        return node[0], node[0] + node[1]
    extents = [extent(inner) for inner in node.values()]
    return min(start for start, _ in extents), max(end for _, end in extents)


def _body(layout: Windows, struct_name: str, tree: Tree, size: int, base: int, path: str, depth: int) -> list[str]:
    """Write members as a union of structures, each with a gap before its one member."""
    indent = "  " * depth
    lines = [f"{indent}union {{", f"{indent}  unsigned char Bytes[{size}];"]
    for name, node in tree.items():
        start, end = extent(node)
        gap = f"unsigned char Gap{start - base}_{name}[{start - base}]; " if start > base else ""
        if isinstance(node, dict):
            lines.append(f"{indent}  struct {{ {gap}struct {{")
            lines.extend(_body(layout, struct_name, node, end - start, start, f"{path}{name}.", depth + 2))
            lines.append(f"{indent}  }} {name}; }};")
            continue
        lines.append(f"{indent}  struct {{ {gap}{_member(layout, struct_name, path + name, node)} }};")
    lines.append(f"{indent}}};")
    return lines


def _member(layout: Windows, struct_name: str, path: str, field: list[int]) -> str:
    name = path.rpartition(".")[2]
    size = field[1]
    if len(field) == 4:
        unit = _UNSIGNED[size]
        before = f"{unit} Before_{name} : {field[2]}; " if field[2] else ""
        return f"{before}{unit} {name} : {field[3]};"
    typed = member_type(layout, struct_name, path)
    nested = typed.removeprefix("struct ")
    if typed.endswith("*") and size == layout.pointer_size:
        return f"{typed}{name};"
    if typed and nested in layout.structs and layout.structs[nested]["size"] == size:
        return f"{typed} {name};"
    if size in _UNSIGNED and name != "ImageFileName":
        return f"{_UNSIGNED[size]} {name};"
    return f"unsigned char {name}[{max(size, 1)}];" if size else f"unsigned char {name}[0];"
