"""What is changed, what does the user read of it, and why can it not be done?"""

from __future__ import annotations

from typing import Callable


class Failure(Exception):
    """Say in one line what cannot be done, and the remedy."""


class Unusable(Failure):
    """Say why a debugger cannot load dlwhy; another one may."""


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


def say(text: str) -> None:
    """Print a line at once, so that it stands in order with the output of child processes."""
    print(text, flush=True)  # noqa: T201 - to the user who runs install.py


def dotted(version: tuple[int, ...]) -> str:
    """Write a version as 3.11."""
    return ".".join(map(str, version))


def in_words(error: OSError) -> str:
    """Say what the system refused, and of which file."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
