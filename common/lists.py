"""How is a linked list in the target followed, and was it followed to its end?

A `Walk` has the items it read and how it ended: at the list's end, or why not.  A caller that relies on an incomplete
walk says so: an entry that was not read is not absent.

Trees (``windows.kernel.vad``, ``windows.kernel.handles``) are not walked by it, nor lists whose unchanged parts come
from an earlier snapshot (``linux.loader.incremental``, which falls back to a walk on any inconsistency).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Generic, Optional, TypeVar

from .counts import quantity
from .errors import CorruptError, FaultError
from .memory import Memory

Item = TypeVar("Item")


class WalkEnd(Enum):
    """How a walk ended."""

    WHOLE = "whole"
    LOOP = "loop"
    CONTRADICTION = "contradiction"
    FAULT = "fault"
    LIMIT = "limit"


class Walk(Generic[Item]):
    """A linked list of the target, read on demand.

    An iteration reads one node at a time; `all`, `is_complete` and `reason` read all that are left.
    ``items`` are those read so far.  ``end`` says how the walk ended, None while it can continue.  If it did not end
    at the list's end, ``address`` is the node where it stopped, and ``reason`` says why.
    """

    def __init__(
        self,
        first: int,
        read: Callable[[int, int], tuple[Item, int]],
        *,
        limit: int,
        taken: int = 0,
        last: int = 0,
        subject: str = "it",
        noun: str = "entry",
    ) -> None:
        """Create a walk; nothing is read yet.

        :param first: address of the first node; ``last`` for an empty list.
        :param read: returns the item at a node and the address of the next node, given the node's address and the
            previous node's (``last`` for the first); raises FaultError, or CorruptError if this cannot be the next
            node.
        :param limit: maximum number of nodes, including ``taken``.
        :param taken: number of nodes of other lists under the same limit.
        :param last: the address that ends the list: 0, or a ring's head.
        :param subject: what the list is called in ``reason``.
        :param noun: what one of its nodes is called there.
        """
        self.items: list[Item] = []
        self.end: Optional[WalkEnd] = None
        self.address = first
        self.error: Optional[FaultError] = None
        self._detail = ""
        self._before = last
        self._read = read
        self._limit = limit
        self._taken = taken
        self._last = last
        self._seen: set[int] = set()
        self._words = subject, noun

    def __iter__(self) -> Iterator[Item]:
        """Yield the items, reading nodes on demand."""
        index = 0
        while index < len(self.items) or self._step():
            yield self.items[index]
            index += 1

    def all(self) -> list[Item]:
        """Follow the list to its end, or as far as it can be followed."""
        while self._step():
            pass
        return self.items

    @property
    def is_complete(self) -> bool:
        """Return True if the list was followed to its end."""
        self.all()
        return self.end is WalkEnd.WHOLE

    @property
    def reason(self) -> Optional[str]:
        """Return why the list could not be followed to its end, None if it was."""
        self.all()
        subject, noun = self._words
        place = f"{self.address:#x} after {quantity(len(self.items), noun)}"
        if self.end is WalkEnd.LOOP:
            return f"{subject} loops at {place}"
        if self.end is WalkEnd.FAULT:
            return f"{subject} cannot be read at {place}"
        if self.end is WalkEnd.LIMIT:
            have = "and the lists before it have" if self._taken else "has"
            return f"{subject} {have} more than {quantity(self._limit, noun)}"
        return self._detail if self.end is WalkEnd.CONTRADICTION else None

    def _step(self) -> bool:
        """Read one more node; return False at the end."""
        if self.end is not None:
            return False
        address = self.address
        if address == self._last:
            self.end = WalkEnd.WHOLE
        elif address in self._seen:
            self.end = WalkEnd.LOOP
        elif len(self.items) + self._taken >= self._limit:
            self.end = WalkEnd.LIMIT
        else:
            try:
                item, self.address = self._read(address, self._before)
            except FaultError as error:
                self.end, self.error = WalkEnd.FAULT, error
            except CorruptError as error:
                self.end, self._detail = WalkEnd.CONTRADICTION, str(error)
            else:
                self._seen.add(address)
                self.items.append(item)
                self._before = address
                return True
        return False


def follow_ring(
    memory: Memory,
    head: int,
    item: Callable[[int], Item],
    *,
    limit: int,
    taken: int = 0,
    backwards: bool = False,
    pointer_size: Optional[int] = None,
    subject: str = "it",
    noun: str = "entry",
) -> Walk[Item]:
    """Follow a ring of {next, previous} pointers, such as glibc's ``list_t`` and NT's ``LIST_ENTRY``.

    Each node must point back to the previous one.  The head is not a node.

    :param head: the head's address.
    :param item: returns the item of a node, given the address of its links.
    :param backwards: follow the pointers to the previous nodes instead.
    :param pointer_size: in bytes, if it is not the target's.
    """
    size = pointer_size or memory.pointer_size
    form = struct.Struct(f"{memory.struct_prefix}2{'Q' if size == 8 else 'I'}")
    there, back = (1, 0) if backwards else (0, 1)

    def read(address: int, before: int) -> tuple[Item, int]:
        links = form.unpack(memory.read(address, form.size))
        if links[back] != before:
            raise CorruptError(f"the entry at {address:#x} does not point back: what follows is not known")
        return item(address), links[there]

    first = memory.try_read(head, form.size)
    begin = head if first is None else form.unpack(first)[there]
    walk = Walk(begin, read, limit=limit, taken=taken, last=head, subject=subject, noun=noun)
    if first is None:
        walk.end, walk.error = WalkEnd.FAULT, FaultError(head, form.size)
    return walk
