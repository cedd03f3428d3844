"""Which ranges of a process are mapped, and to what?

The virtual address descriptors of a process form a balanced tree: ``_MM_AVL_TABLE`` whose sentinel is the table itself
in Windows Vista and 7, a plain pointer to the root ``_MMVAD`` in XP, ``_RTL_AVL_TREE`` since 8.1.  Only long ones
(``_MMVAD``) map sections; reading ``Subsection`` out of a short one (``_MMVAD_SHORT``) reads the next pool block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

from ...counts import quantity
from ...errors import FaultError
from ...model import Field, Problem
from .kernel import Nt

#: In one process; real ones have far fewer.
MAX_VADS = 1 << 19
#: Cost of a VAD, in Memory's units, in addition to the bytes read.
_VAD_UNITS = 300
#: Maximum number of reported problems of one tree.
_TOLD_PROBLEMS = 8
PAGE_SHIFT = 12
#: The low bits of a link to a parent.
_BALANCE = 3

# The values of MI_VAD_TYPE that are mapped from a section.
VAD_NONE = 0
VAD_IMAGE_MAP = 2
VAD_LARGE_PAGE_SECTION = 7
_SECTION_TYPES = frozenset({VAD_NONE, VAD_IMAGE_MAP, VAD_LARGE_PAGE_SECTION})

# Pool tags of _MMVAD_SHORT and _MMVAD.
_SHORT_TAGS = frozenset({b"VadS", b"VadF"})
_LONG_TAGS = frozenset({b"Vad ", b"Vadl", b"Vadm"})

# As !vad prints MMVAD_FLAGS.Protection: three bits, and two more for caching and guard pages.
_PROTECTIONS = (
    "NO_ACCESS",
    "READONLY",
    "EXECUTE",
    "EXECUTE_READ",
    "READWRITE",
    "WRITECOPY",
    "EXECUTE_READWRITE",
    "EXECUTE_WRITECOPY",
)


class Vad(NamedTuple):
    """A range of addresses: ``start`` to ``end``, the last byte, inclusive.

    ``section`` is the address in ``Subsection`` (in XP: of the ``_CONTROL_AREA`` itself), 0 if there is none.
    ``is_view`` says that by its own flags it maps one, ``kind`` as what (MI_VAD_TYPE).  ``commit`` counts pages, None
    if none are charged.
    """

    address: int
    start: int
    end: int
    kind: int
    is_view: bool
    protection: str
    commit: Optional[int]
    section: int

    @property
    def image(self) -> bool:
        """Return True if it maps an image."""
        return self.kind == VAD_IMAGE_MAP


class _Node(NamedTuple):
    """The children of a VAD in its tree, and whether the heights of what is below them differ (0: they do not)."""

    left: int
    right: int
    balance: int


def _find_unbalanced(root: int, nodes: Mapping[int, _Node]) -> int:
    """Return an entry of an AVL tree below which the heights differ otherwise than it says; 0 if there is none.

    Which balance means that the left side is higher is seen from the tree itself.
    """
    heights = {0: 0}
    sides: dict[int, bool] = {}
    stack = [root]
    while stack:
        address = stack[-1]
        node = nodes.get(address)
        if node is None or address in heights:
            stack.pop()
            continue
        below = [child for child in (node.left, node.right) if child not in heights]
        if below:
            stack += below
            continue
        left, right = heights[node.left], heights[node.right]
        is_left = left > right
        if abs(left - right) != (1 if node.balance else 0):
            return address
        if node.balance and sides.setdefault(node.balance, is_left) != is_left:
            return address
        heights[stack.pop()] = 1 + max(left, right)
    return 0


class VadReader:
    """Read the VAD trees of a kernel's processes."""

    def __init__(self, nt: Nt) -> None:
        self._nt = nt
        self._root = nt.offset("_EPROCESS", "VadRoot")
        self._node = 0
        #: The number of entries, of which Windows Vista and 7 keep count.
        self._count: Optional[Field] = None
        #: Whether each entry has its balance in the low bits of its link to its parent; not so in XP.
        self._is_avl = True
        # One read per VAD: members of the structures nested in _MMVAD_SHORT, by their offset in it.
        members: dict[str, Field] = {}
        if nt.has("_MMVAD_SHORT", "VadNode"):
            self._node = nt.offset("_MMVAD_SHORT", "VadNode")
            members["left"] = _inside(self._node, nt.field("_RTL_BALANCED_NODE", "Left"))
            members["right"] = _inside(self._node, nt.field("_RTL_BALANCED_NODE", "Right"))
            members["parent"] = _inside(self._node, nt.field("_RTL_BALANCED_NODE", "ParentValue"))
            self._root += nt.offset("_RTL_AVL_TREE", "Root")
        else:
            members["left"] = nt.field("_MMVAD_SHORT", "LeftChild")
            members["right"] = nt.field("_MMVAD_SHORT", "RightChild")
            self._is_avl = nt.has("_MMVAD_SHORT", "u1.Parent")
            members["parent"] = nt.field("_MMVAD_SHORT", "u1.Parent" if self._is_avl else "Parent")
            if "_MM_AVL_TABLE" in nt.layouts:
                self._count = nt.field("_MM_AVL_TABLE", "NumberGenericTableElements")
                self._count = self._count._replace(offset=self._root + self._count.offset)
                self._root += nt.offset("_MM_AVL_TABLE", "BalancedRoot") + nt.offset("_MMADDRESS_NODE", "RightChild")
        for name in ("StartingVpn", "EndingVpn"):
            members[name] = nt.field("_MMVAD_SHORT", name)
            if nt.has("_MMVAD_SHORT", f"{name}High"):
                members[f"{name}High"] = nt.field("_MMVAD_SHORT", f"{name}High")
        self._vpn_bits = 8 * members["StartingVpn"].size
        flags = nt.offset("_MMVAD_SHORT", "u.VadFlags")
        kind = "VadType" if nt.has("_MMVAD_FLAGS", "VadType") else "ImageMap"
        for name in (kind, "Protection", "PrivateMemory"):
            members[name] = _inside(flags, nt.field("_MMVAD_FLAGS", name))
        if nt.has("_MMVAD_SHORT", "u1.VadFlags1"):
            more_flags = nt.offset("_MMVAD_SHORT", "u1.VadFlags1")
            members["CommitCharge"] = _inside(more_flags, nt.field("_MMVAD_FLAGS1", "CommitCharge"))
        else:
            members["CommitCharge"] = _inside(flags, nt.field("_MMVAD_FLAGS", "CommitCharge"))
        self._no_commit = (1 << members["CommitCharge"].bit_count) - 1
        self._members = nt.structure("_MMVAD_SHORT", members)
        # PoolTag in _POOL_HEADER, which is 16 or 8 bytes long.
        self._tag_before = 12 if nt.pointer_size == 8 else 4
        direct = nt.has("_MMVAD", "ControlArea")
        self._section = nt.offset("_MMVAD", "ControlArea" if direct else "Subsection")
        self._core = nt.offset("_MMVAD", "Core") if nt.has("_MMVAD", "Core") else 0
        self._section -= self._core
        self._tag_before += self._core

    def read_tree(self, eprocess: int, where: str, problems: list[Problem]) -> list[Vad]:
        """Read all VADs of a process by rising address; unreadable parts are reported in ``problems``."""
        own: list[Problem] = []
        found = self._read_tree(eprocess, where, own)
        problems += own[:_TOLD_PROBLEMS]
        if len(own) > _TOLD_PROBLEMS:
            problems.append(Problem(where, f"its VAD tree has {quantity(len(own) - _TOLD_PROBLEMS, 'more fault')}"))
        return found

    def _read_tree(self, eprocess: int, where: str, problems: list[Problem]) -> list[Vad]:
        memory = self._nt.memory
        try:
            root = memory.pointer(eprocess + self._root)
        except FaultError as error:
            problems.append(Problem(where, f"its VAD tree cannot be read: {error}"))
            return []
        found: list[Vad] = []
        nodes: dict[int, _Node] = {}
        stack = [(root, 0)] if root else []
        while stack:
            node, above = stack.pop()
            if node in nodes:
                problems.append(Problem(where, f"its VAD tree runs in a circle at {node:#x}"))
                continue
            if len(nodes) >= MAX_VADS or not memory.spend(_VAD_UNITS, "VAD trees"):
                problems.append(Problem(where, f"its VAD tree has more than the {len(nodes)} entries that are read"))
                break
            nodes[node] = _Node(0, 0, 0)
            address = node - self._node
            try:
                values = self._members.read(self._nt.memory, address)
                vad = self._decode(address, values)
            except FaultError as error:
                problems.append(Problem(where, f"the VAD at {address:#x} cannot be read: {error}"))
                continue
            nodes[node] = _Node(values["left"], values["right"], values["parent"] & _BALANCE)
            parent = values["parent"] & ~_BALANCE
            if above and parent != above:
                message = f"the VAD at {address:#x} is below {above:#x}, but by its own link below {parent:#x}"
                problems.append(Problem(where, message))
            stack += [(child, node) for child in (values["right"], values["left"]) if child]
            if vad.end < vad.start:
                problems.append(Problem(where, f"the VAD at {address:#x} ends before it starts"))
            else:
                found.append(vad)
        count = self._read_count(eprocess)
        if count is not None and count != len(nodes) and not problems:
            problems.append(
                Problem(where, f"its VAD tree has {count} entries by its own count, but {len(nodes)} in it")
            )
        if self._is_avl and not problems:
            odd = _find_unbalanced(root, nodes)
            if odd:
                message = f"the parts of its VAD tree below {odd:#x} are not balanced as it says: some can be missing"
                problems.append(Problem(where, message))
        found.sort(key=lambda vad: vad.start)
        return found

    def _read_count(self, eprocess: int) -> Optional[int]:
        if self._count is None:
            return None
        raw = self._nt.memory.try_unsigned(eprocess + self._count.offset, self._count.size)
        bits = self._count.bit_count
        return raw if raw is None or not bits else raw >> self._count.bit_shift & (1 << bits) - 1

    def read_long(self, address: int) -> Vad:
        """Read the VAD of a section, by the address of its ``_MMVAD``.

        :raises FaultError: if it cannot be read.
        """
        address += self._core
        return self._decode(address, self._members.read(self._nt.memory, address))

    def _decode(self, address: int, values: Mapping[str, int]) -> Vad:
        bits = self._vpn_bits
        start = values["StartingVpn"] | values.get("StartingVpnHigh", 0) << bits
        end = values["EndingVpn"] | values.get("EndingVpnHigh", 0) << bits
        commit = values["CommitCharge"]
        kind = values["VadType"] if "VadType" in values else VAD_IMAGE_MAP if values["ImageMap"] else VAD_NONE
        mapped = kind == VAD_IMAGE_MAP or (kind in _SECTION_TYPES and not values["PrivateMemory"])
        section = 0
        # What it is shows in the pool's tag, whatever its flags are.
        tag = self._nt.memory.try_read(address - self._tag_before, 4)
        mapped = mapped and tag not in _SHORT_TAGS
        if mapped or tag in _LONG_TAGS:
            section = self._nt.memory.pointer(address + self._section)
        return Vad(
            address=address,
            start=start << PAGE_SHIFT,
            end=(end << PAGE_SHIFT) + (1 << PAGE_SHIFT) - 1,
            kind=kind,
            is_view=mapped,
            protection=_PROTECTION_WORDS[values["Protection"] & 31],
            commit=None if commit == self._no_commit else commit,
            section=section,
        )


def _inside(offset: int, field: Field) -> Field:
    """Return a nested structure's member as a member of the outer structure."""
    return field._replace(offset=offset + field.offset)


def _protection(value: int) -> str:
    words = [_PROTECTIONS[value & 7]]
    modifier = value >> 3
    if modifier == 1:
        words.append("NOCACHE")
    elif modifier == 2:
        words.append("GUARD")
    elif modifier == 3 and value & 7:
        words.append("WRITECOMBINE")
    return " ".join(words)


_PROTECTION_WORDS = tuple(_protection(value) for value in range(32))
