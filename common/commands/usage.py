"""How does argparse read a command line, name its mistakes, and explain it?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from ..errors import UsageError
from ..host import write_to

if TYPE_CHECKING:
    from .arguments import Argument


HELP_WIDTH = 100


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the help the same whatever the terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=HELP_WIDTH)


class CommandParser(argparse.ArgumentParser):
    """A parser that raises: argparse's own exit would end the debugger."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong."""
        raise UsageError(f"{message}; see help {self.prog}", self.format_usage().strip())

    def exit(self, status: int = 0, message: object = None) -> NoReturn:
        """Say what argparse would have said last."""
        raise UsageError(str(message or status), self.format_usage().strip())


class ShellParser(argparse.ArgumentParser):
    """The parser of the shell's command: a mistake is told in one line, and help is written as answers are."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong."""
        raise UsageError(f"{message}; see {self.prog} --help", self.format_usage().strip())

    def print_help(self, file: object = None) -> None:
        """Write the help."""
        write_to(sys.stdout, self.format_help())


def add_arguments(parser: argparse.ArgumentParser, arguments: Sequence[Argument]) -> None:
    """Add arguments to a parser, those of one choice to a group that allows one of them."""
    choices: dict[str, argparse._MutuallyExclusiveGroup] = {}
    for item in arguments:
        if item.choice and item.choice not in choices:
            choices[item.choice] = parser.add_mutually_exclusive_group()
        (choices[item.choice] if item.choice else parser).add_argument(*item.flags, **item.options)
