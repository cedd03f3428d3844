"""Which commands are there, and how are their words parsed?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from ..host import Host
from ..target import Target
from .arguments import argument, read_plain_words

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..render.document import Document
    from .arguments import Argument


#: The commands, each defined by the module of its name.
NAMES = ("dllgone", "dllplan", "dllshare", "dllstate", "dlltrace", "dlplan", "dlstate", "dltrace")


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


PROCESS_ARGUMENT = argument(
    "-p",
    "--process",
    metavar="PID",
    help="in a kernel's memory: this process (0n decimal, 0x hex), not the current",
)

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
    answer: Callable[[Session, Namespace], Result]

    def parse(self, words: Sequence[str]) -> Namespace:
        """Understand the words behind the command.

        :raises UsageError: if they are wrong.
        """
        plain = read_plain_words((*self.arguments, *OUTPUT_ARGUMENTS), words)
        if plain is not None:
            return plain
        # Before Python 3.13 argparse loses the "--" where options may stand between the words.
        parser = self.parser()
        return parser.parse_args(words) if "--" in words else parser.parse_intermixed_args(words)

    def parser(self) -> ArgumentParser:
        """Build argparse's parser; it raises `UsageError` and never exits."""
        from .usage import CommandParser, HelpFormatter, add_arguments

        parser = CommandParser(
            prog=self.name,
            description=f"{self.summary[:1].upper()}{self.summary[1:]}.\n\n{self.description}",
            formatter_class=HelpFormatter,
            add_help=False,
        )
        add_arguments(parser, (*self.arguments, *OUTPUT_ARGUMENTS))
        return parser

    def help(self) -> str:
        """Give the help text: summary, usage, options, as debuggers show it."""
        usage, summary, rest = self.parser().format_help().split("\n\n", 2)
        # Before Python 3.10 argparse called the options "optional arguments".
        rest = rest.replace("optional arguments:", "options:", 1).rstrip()
        return f"{summary}\n{usage.replace('usage:', 'Usage:', 1)}\n\n{rest}"


COMMANDS: dict[str, Command] = {}


def find_command(name: str) -> Optional[Command]:
    """Find a command, importing no other than its own module."""
    if name in NAMES and name not in COMMANDS:
        __import__(f"{__package__}.{name}.command")  # importing importlib for this takes longer than the module
    return COMMANDS.get(name)


def all_commands() -> Mapping[str, Command]:
    """Give all commands by name."""
    for name in NAMES:
        find_command(name)
    return COMMANDS


def elf_commands() -> Mapping[str, Command]:
    """Give the commands for targets other than Windows, by name."""
    return {name: command for name, command in all_commands().items() if not name.startswith("dll")}


def windows_commands() -> Mapping[str, Command]:
    """Give the commands for targets of Windows, by name."""
    return {name: command for name, command in all_commands().items() if name.startswith("dll")}


def command(
    name: str, summary: str, description: str, arguments: Sequence[Argument]
) -> Callable[[Callable[[Session, Namespace], Result]], Command]:
    """Define a command over the function that answers it."""

    def define(answer: Callable[[Session, Namespace], Result]) -> Command:
        COMMANDS[name] = Command(name, summary, description, tuple(arguments), answer)
        return COMMANDS[name]

    return define


def process_id(text: Optional[str]) -> Optional[int]:
    """Take the number of PROCESS_ARGUMENT, None where it is not given.

    :raises UsageError: if it is none.
    """
    if text is None:
        return None
    try:
        return int(text[2:], 10) if text.startswith("0n") else int(text, 0)
    except ValueError as error:
        from ..errors import UsageError

        raise UsageError(f"-p takes a process id, not '{text}'") from error
