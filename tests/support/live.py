"""What is a process to a trace, where the test itself decides what each thread does?

Breakpoints are asked by `Breakpoints.arrive`; no debugger, no program, no waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Optional

from dlwhy.common.errors import UnsupportedError
from dlwhy.common.target import Hit, Reaction, Subscription

Handler = Callable[[Hit], Reaction]


class Arrival:
    """A thread at a breakpoint, with the registers that are given."""

    def __init__(self, address: int, lwp: int, values: Mapping[str, int]) -> None:
        self.address = address
        self.lwp = lwp
        self._values = values

    def registers(self, names: Sequence[str]) -> tuple[int, ...]:
        """Read registers, as `Hit` has it."""
        missing = [name for name in names if name not in self._values]
        if missing:
            raise UnsupportedError(f"there is no register {', '.join(missing)}")
        return tuple(self._values[name] for name in names)


class Removal:
    """What a test set up and can take back, and as a breakpoint switch off and on."""

    def __init__(self, remove: Callable[[], None]) -> None:
        self._remove = remove
        self.is_on = True

    def remove(self) -> None:
        """Take it back."""
        self._remove()


class Breakpoints:
    """The part of a `LiveTarget` that is about events."""

    def __init__(self) -> None:
        self.handlers: dict[int, list[Handler]] = {}
        self.lines: dict[int, str] = {}
        self.alive = True
        self._callbacks: list[Callable[[str], None]] = []

    def add_breakpoint(self, places: Sequence[int], on_hit: Handler, *, enabled: bool = True) -> Subscription:
        """Set breakpoints."""

        def handle(hit: Hit) -> Reaction:
            return on_hit(hit) if subscription.is_on else Reaction.RESUME

        def remove() -> None:
            for place in places:
                self.handlers[place].remove(handle)
                if not self.handlers[place]:
                    del self.handlers[place]

        for place in places:
            self.handlers.setdefault(place, []).append(handle)
        subscription = Removal(remove)
        subscription.is_on = enabled
        return subscription

    def exchange(self, old: Sequence[Subscription], new: Sequence[Subscription]) -> None:
        """Switch some breakpoints off, and others on."""
        for each in (*old, *new):
            assert isinstance(each, Removal)
            each.is_on = each in new

    def on_end(self, callback: Callable[[str], None]) -> Subscription:
        """Listen to the end."""
        self._callbacks.append(callback)
        return Removal(lambda: self._callbacks.remove(callback))

    def is_alive(self) -> bool:
        """Return True if the process is there."""
        return self.alive

    def find_line(self, address: int) -> Optional[str]:
        """Find the source line among those that the test has given."""
        return self.lines.get(address)

    def say(self, text: str) -> None:
        """Refuse: a command speaks, not the trace."""
        raise AssertionError(text)

    def arrive(self, hit: Arrival) -> Reaction:
        """Let a thread come to a place; STOP if a handler there asks for it."""
        reactions = [handler(hit) for handler in self.handlers.get(hit.address, [])[:]]
        return Reaction.STOP if Reaction.STOP in reactions else Reaction.RESUME

    def tell_end(self, why: str) -> None:
        """Tell those who listen that there is nothing to watch any more."""
        for callback in self._callbacks[:]:
            callback(why)


if TYPE_CHECKING:
    _hit: type[Hit] = Arrival
    _removal: type[Subscription] = Removal
