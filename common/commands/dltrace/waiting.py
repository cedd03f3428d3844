"""How does a trace begin that is asked for before the loader has run, when nothing can be read yet?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from ...errors import CorruptError, FaultError, NoTargetError
from ...guards import call_handler, describe_bug
from ...host import ProgramHost
from ...linux.loader.rendezvous import has_loader_run
from ...memory import Memory
from ...target import Subscription


class WaitingTrace:
    """A trace that begins when the loader has run.

    ``failure`` says why it could not begin then, None as long as it waits.
    """

    def __init__(self, host: ProgramHost, begin: Callable[[], None]) -> None:
        """Wait for the loader.

        :param begin: begins the trace.
        :raises NoTargetError: if there is no program that could be started.
        """
        self.failure: Optional[str] = None
        self._host = host
        self._begin = begin
        self._subscription: Optional[Subscription] = host.when_loaded(self._try)

    def cancel(self) -> None:
        """Cancel the wait for the loader."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.remove()

    def _try(self) -> None:
        """Begin the trace if the loader has run."""
        if self._subscription is not None and call_handler(self._is_time, False, self._fail):
            self.cancel()
            call_handler(self._begin, None, self._fail)

    def _is_time(self) -> bool:
        try:
            return has_loader_run(Memory(self._host.live_target()))
        except (NoTargetError, FaultError, CorruptError):
            return False  # asked again when more is loaded

    def _fail(self, error: Exception) -> None:
        self.failure = str(error) or describe_bug(error)
        self.cancel()
