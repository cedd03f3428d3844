"""Which changes are made, each once and by name, and which could not be made?"""

from __future__ import annotations

from typing import Callable, Union

from ..errors import SetupError, UnusableError
from .report import describe_os_error, say


class Changes:
    """Applies and prints changes, each once; in a dry run only prints them."""

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.count = 0
        self._named: set[str] = set()
        self._failed: dict[str, Union[SetupError, OSError]] = {}

    def make(self, what: str, action: Callable[..., object], *arguments: object) -> None:
        """Print the change ``what``, an imperative, and apply it by calling ``action``.

        :raises SetupError: if it cannot be made, or could not be made before.
        :raises OSError: likewise, as the system reported it.
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
    """Tries each part of a sub-command, and collects the reasons for failures, each once."""

    def __init__(self) -> None:
        self._reasons: dict[str, bool] = {}  # and whether it is a failure

    def make(self, action: Callable[..., object], *arguments: object) -> bool:
        """Try a part; return True if it succeeded."""
        try:
            action(*arguments)
        except UnusableError as error:
            self._reasons.setdefault(str(error), False)
        except SetupError as error:
            self._reasons[str(error)] = True
        except OSError as error:
            self._reasons.setdefault(describe_os_error(error), False)
        else:
            return True
        return False

    @property
    def notes(self) -> list[str]:
        """List why a debugger or the shell does not get dlwhy while others do."""
        return [text for text, is_failure in self._reasons.items() if not is_failure]

    @property
    def failures(self) -> list[str]:
        """List why the requested changes were not made."""
        return [text for text, is_failure in self._reasons.items() if is_failure]

    def notes_to_failures(self) -> None:
        """Turn the notes into failures: nothing else succeeded."""
        self._reasons = dict.fromkeys(self._reasons, True)
