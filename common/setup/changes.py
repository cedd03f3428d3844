"""Which changes are made, each once and by name, and which could not be made?"""

from __future__ import annotations

from typing import Callable, Union

from ..errors import SetupError, UnusableError
from .report import in_words, say


class Changes:
    """Carry out changes, each once, and name them; in a dry run only name them."""

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.count = 0
        self._named: set[str] = set()
        self._failed: dict[str, Union[SetupError, OSError]] = {}

    def make(self, what: str, action: Callable[..., object], *arguments: object) -> None:
        """Name the change ``what``, an imperative, and carry it out by ``action``.

        :raises SetupError: if it cannot be made, as OSError; the same again if it could not be made before.
        """
        if what in self._failed:
            raise self._failed[what]
        if what in self._named:
            return
        self.count += 1
        self._named.add(what)
        say(f"would {what}" if self.dry_run else what)
        if self.dry_run:
            return
        try:
            action(*arguments)
        except (SetupError, OSError) as error:
            self._failed[what] = error
            raise


class Attempts:
    """Try each part of a sub-command and keep why some could not be done, each reason once."""

    def __init__(self) -> None:
        self._reasons: dict[str, bool] = {}  # and whether it is a failure

    def make(self, action: Callable[..., object], *arguments: object) -> bool:
        """Carry out a part and return True if that could be done."""
        try:
            action(*arguments)
        except UnusableError as error:
            self._reasons.setdefault(str(error), False)
        except SetupError as error:
            self._reasons[str(error)] = True
        except OSError as error:
            self._reasons.setdefault(in_words(error), False)
        else:
            return True
        return False

    @property
    def notes(self) -> list[str]:
        """List why a debugger, or the shell, goes without dlwhy where others have it."""
        return [text for text, is_failure in self._reasons.items() if not is_failure]

    @property
    def failures(self) -> list[str]:
        """List why what is asked for is not done."""
        return [text for text, is_failure in self._reasons.items() if is_failure]

    def take_notes_for_failures(self) -> None:
        """Take what was noted so far for failures: nothing else was done instead."""
        self._reasons = dict.fromkeys(self._reasons, True)
