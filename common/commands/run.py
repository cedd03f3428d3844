"""How does a command line become an answer on the screen?"""

from __future__ import annotations

from ..render.text import render
from .registry import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Optional

    from ..host import Host
    from .registry import Command, Result


def run(host: Host, command: Command, words: Sequence[str]) -> Optional[Result]:
    """Run a command and write its answer to the host; gives None where only help was asked for.

    :raises DlwhyError: if it cannot be answered.
    """
    arguments = command.parse(words)
    if arguments.help:
        host.write(command.help() + "\n")
        return None
    result = command.answer(Session(host), arguments)
    if arguments.json:
        from ..render.jsonout import dump

        host.write(dump(result.document()))
        return result
    text = render(result.view(arguments.verbose))
    if arguments.color == "always" or (arguments.color == "auto" and host.screen().colour):
        from ..render.colour import colourise

        text = colourise(text)
    host.write(text)
    return result
