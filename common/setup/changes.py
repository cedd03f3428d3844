"""Which changes are made, each once and by name?"""

from __future__ import annotations

from typing import Callable

from .report import say


class Changes:
    """Carry out changes, each once, and name them; in a dry run only name them."""

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.count = 0
        self._named: set[str] = set()

    def make(self, what: str, action: Callable[..., object], *arguments: object) -> None:
        """Name the change ``what``, an imperative, and carry it out by ``action``."""
        if what in self._named:
            return
        self.count += 1
        self._named.add(what)
        say(f"would {what}" if self.dry_run else what)
        if not self.dry_run:
            action(*arguments)
