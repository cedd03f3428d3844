"""Which commands are there, and how are their words parsed?"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from ..errors import UsageError
from ..host import Host
from ..render.document import Document
from ..target import Target


class Session(NamedTuple):
    """What one run of a command works on."""

    host: Host

    @property
    def target(self) -> Target:
        """Give what is examined.

        :raises NoTargetError: if there is nothing.
        """
        return self.host.target()


class Result(NamedTuple):
    """What a command found: its JSON document, its words, whether something could not be established, or is wrong."""

    document: Callable[[], dict[str, Any]]
    view: Callable[[bool], Document]
    has_problems: bool
    has_findings: bool


class Argument(NamedTuple):
    """An argument as argparse takes it; ``completes_libraries`` asks for the names of what is loaded."""

    flags: tuple[str, ...]
    options: Mapping[str, Any]
    completes_libraries: bool = False


def argument(*flags: str, completes_libraries: bool = False, **options: Any) -> Argument:
    """Define an argument."""
    return Argument(flags, options, completes_libraries)


HELP_WIDTH = 100

OUTPUT_ARGUMENTS = (
    argument("-h", "--help", action="store_true", help="show this help"),
    argument("-v", "--verbose", action="store_true", help="add addresses, expressions and where offsets came from"),
    argument("--json", action="store_true", help="print one JSON document (schema dlwhy/1)"),
    argument("--color", choices=("auto", "always", "never"), default="auto", help="colour the text (default: auto)"),
)


class Command(NamedTuple):
    """A command: its name, help, arguments, and the function that answers."""

    name: str
    summary: str
    description: str
    arguments: tuple[Argument, ...]
    answer: Callable[[Session, argparse.Namespace], Result]

    def parser(self) -> _Parser:
        """Build the parser."""
        parser = _Parser(
            prog=self.name,
            description=f"{self.summary[:1].upper()}{self.summary[1:]}.\n\n{self.description}",
            formatter_class=HelpFormatter,
            add_help=False,
        )
        for item in (*self.arguments, *OUTPUT_ARGUMENTS):
            parser.add_argument(*item.flags, **item.options)
        return parser

    def help(self) -> str:
        """Give the help text: summary, usage, options, as debuggers show it."""
        usage, summary, rest = self.parser().format_help().split("\n\n", 2)
        # Before Python 3.10 argparse called the options "optional arguments".
        rest = rest.replace("optional arguments:", "options:", 1).rstrip()
        return f"{summary}\n{usage.replace('usage:', 'Usage:', 1)}\n\n{rest}"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the help the same whatever the terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=HELP_WIDTH)


class _Parser(argparse.ArgumentParser):
    """A parser that raises: argparse's own exit would end the debugger."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see help {self.prog}", self.format_usage().strip())

    def exit(self, status: int = 0, message: object = None) -> NoReturn:
        raise UsageError(str(message or status), self.format_usage().strip())


COMMANDS: dict[str, Command] = {}


def command(
    name: str, summary: str, description: str, arguments: Sequence[Argument]
) -> Callable[[Callable[[Session, argparse.Namespace], Result]], Command]:
    """Define a command over the function that answers it."""

    def define(answer: Callable[[Session, argparse.Namespace], Result]) -> Command:
        COMMANDS[name] = Command(name, summary, description, tuple(arguments), answer)
        return COMMANDS[name]

    return define
