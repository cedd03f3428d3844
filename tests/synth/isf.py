"""Write a layout as volatility3's symbol table (ISF), which it takes in place of the kernel's PDB.

What its classes insist on and no layout has is there as an empty structure.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .ntdump import Machine
from .ntimage import Tree, extent, member_tree, member_type
from .ntlayout import Windows

# volatility3.framework.symbols.windows gives these classes without asking whether they are there.
_EMPTY = (
    *("_ETHREAD", "_ERESOURCE", "_TOKEN", "_DEVICE_OBJECT", "_CM_KEY_BODY", "_CMHIVE", "_CM_KEY_NODE"),
    *("_CM_KEY_VALUE", "_HMAP_ENTRY", "_KSYSTEM_TIME", "_KMUTANT", "_DRIVER_OBJECT", "_OBJECT_SYMBOLIC_LINK"),
    *("_SHARED_CACHE_MAP", "_VACB", "_POOL_TRACKER_BIG_PAGES", "_IMAGE_DOS_HEADER", "_KTIMER"),
    *("_LDR_DATA_TABLE_ENTRY", "_POOL_HEADER", "_KPCR"),
)
_UNSIGNED = {1: "unsigned char", 2: "unsigned short", 4: "unsigned long", 8: "unsigned long long"}


def write_isf(machine: Machine, folder: Path) -> Path:
    """Write the symbol table of a machine into a folder that ``vol -s`` takes; gives the file."""
    layout = machine.layout
    types: dict[str, Any] = {name: {"kind": "struct", "size": 8, "fields": {}} for name in _EMPTY}
    for name, struct in layout.structs.items():
        _add_type(types, layout, name, name, member_tree(struct["fields"]), struct["size"], 0, "")
    quad = {"QuadPart": {"offset": 0, "type": {"kind": "base", "name": _UNSIGNED[8]}}}
    types["_LARGE_INTEGER"] = {"kind": "struct", "size": 8, "fields": quad}
    base_types = {
        "pointer": {"kind": "int", "size": layout.pointer_size, "signed": False, "endian": "little"},
        "void": {"kind": "void", "size": 0, "signed": False, "endian": "little"},
        "char": {"kind": "char", "size": 1, "signed": True, "endian": "little"},
        "long": {"kind": "int", "size": 4, "signed": True, "endian": "little"},
        "int": {"kind": "int", "size": 4, "signed": True, "endian": "little"},
    }
    for size, name in _UNSIGNED.items():
        kind = "char" if size == 1 else "int"
        base_types[name] = {"kind": kind, "size": size, "signed": False, "endian": "little"}
    document = {
        "metadata": {
            "format": "6.1.0",
            "producer": {"name": "dlwhy tests", "version": "1", "datetime": "2026-01-01T00:00:00"},
            "windows": {
                "pdb": {
                    "GUID": layout.guid,
                    "age": layout.age,
                    "database": "ntkrnlmp.pdb",
                    "machine_type": 0x8664 if layout.pointer_size == 8 else 0x14C,
                }
            },
        },
        "base_types": base_types,
        "user_types": types,
        "enums": {},
        "symbols": {name: {"address": address} for name, address in machine.symbols.items()},
    }
    path = folder / "windows" / "ntkrnlmp.pdb" / f"{layout.guid}-{layout.age}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def _add_type(
    types: dict[str, Any], layout: Windows, struct_name: str, name: str, tree: Tree, size: int, base: int, path: str
) -> None:
    fields = {}
    for member, node in tree.items():
        start, end = extent(node)
        if isinstance(node, dict):
            inner = f"{name}::{member}"
            _add_type(types, layout, struct_name, inner, node, end - start, start, f"{path}{member}.")
            kind: dict[str, Any] = {"kind": "struct", "name": inner}
        else:
            kind = _kind(layout, struct_name, path + member, node)
        fields[member] = {"offset": start - base, "type": kind}
    types[name] = {"kind": "struct", "size": size, "fields": fields}


def _kind(layout: Windows, struct_name: str, path: str, field: list[int]) -> dict[str, Any]:
    size = field[1]
    if len(field) == 4:
        base = {"kind": "base", "name": _UNSIGNED[size]}
        return {"kind": "bitfield", "bit_position": field[2], "bit_length": field[3], "type": base}
    typed = member_type(layout, struct_name, path).removeprefix("struct ")
    if typed.endswith("*"):
        target = typed.removesuffix("*").strip()
        known = target in layout.structs
        return {
            "kind": "pointer",
            "subtype": {"kind": "struct", "name": target} if known else {"kind": "base", "name": "void"},
        }
    if typed in layout.structs and layout.structs[typed]["size"] == size:
        return {"kind": "struct", "name": typed}
    if path in ("CreateTime", "ExitTime"):
        return {"kind": "struct", "name": "_LARGE_INTEGER"}
    if path == "Object" and size == layout.pointer_size:
        return {"kind": "pointer", "subtype": {"kind": "base", "name": "void"}}
    if size in _UNSIGNED:
        return {"kind": "base", "name": _UNSIGNED[size]}
    return {"kind": "array", "count": size, "subtype": {"kind": "base", "name": "unsigned char"}}
