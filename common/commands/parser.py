"""How are command lines parsed, and errors and help reported, without ending the debugger?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn, Optional

from ..errors import UsageError
from ..host import write_to
from .arguments import Argument

HELP_WIDTH = 100


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Formatter of help, independent of the terminal's width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=HELP_WIDTH)


class HelpRequested(Exception):
    """The command line asks for help."""


class CommandParser(argparse.ArgumentParser):
    """A parser that raises: argparse's own exit would end the debugger."""

    def __init__(self, name: str, summary: str, description: str) -> None:
        # An abbreviation would be refused once another option begins with it.
        super().__init__(prog=name, description=description, formatter_class=HelpFormatter, allow_abbrev=False)
        self._summary = summary
        self._optionals.title = "options"  # "optional arguments" until Python 3.9

    def format_help(self) -> str:
        """Return the help as debuggers show it: summary, usage, description, arguments."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups, "Usage: ")
        usage = formatter.format_help().rstrip()
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        return f"{self._summary}\n{usage}\n\n{formatter.format_help().rstrip()}"

    def print_help(self, file: object = None) -> NoReturn:
        """Raise HelpRequested."""
        raise HelpRequested

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; see help {self.prog}", self.format_usage().strip())

    def exit(self, status: int = 0, message: Optional[str] = None) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(message or str(status), self.format_usage().strip())


class ShellParser(argparse.ArgumentParser):
    """The shell command's parser: errors take one line, and help is written like answers."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help", self.format_usage().strip())

    def print_help(self, file: object = None) -> None:
        """Write the help."""
        write_to(sys.stdout, self.format_help())


def add_arguments(parser: argparse.ArgumentParser, arguments: Sequence[Argument]) -> None:
    """Add arguments to a parser; arguments with the same choice exclude one another."""
    choices: dict[str, argparse._MutuallyExclusiveGroup] = {}
    for item in arguments:
        if item.choice and item.choice not in choices:
            choices[item.choice] = parser.add_mutually_exclusive_group()
        action = (choices[item.choice] if item.choice else parser).add_argument(*item.flags, **item.options)
        if action.nargs == argparse.REMAINDER:
            action.required = False  # no words are enough, yet argparse says that it lacks them
