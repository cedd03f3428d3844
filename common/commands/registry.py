"""Which commands exist, and how are their arguments parsed?

A command is a folder beside this file.  Its ``__init__`` declares it as data, ``COMMAND``, and names the function that
answers, which is imported when the command is used, so that listing the commands imports no analysis.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import NamedTuple, Optional

from .arguments import OUTPUT_ARGUMENTS, Argument
from .parser import CommandParser, add_arguments
from .session import Result, Session


class Example(NamedTuple):
    """An example command line, and the question it answers."""

    words: str
    meaning: str


class Command(NamedTuple):
    """The declaration of a command.

    ``os`` names the system whose programs it examines: ``linux`` (every ELF system) or ``windows``.  ``answer`` names
    the function that answers, ``module:function`` with the module in the command's folder: it takes a `Session` and the
    parsed arguments, and returns a `Result`.  ``method`` is the member of `dlwhy.Examination` by which a script asks
    the same question.  In WinDbg a name in the first column of the answer is a link that runs ``links_to``.
    """

    name: str
    os: str
    summary: str
    description: str
    arguments: tuple[Argument, ...]
    answer: str
    method: str = ""
    examples: tuple[Example, ...] = ()
    links_to: Optional[str] = None

    def parse(self, words: Sequence[str]) -> Namespace:
        """Parse the words behind the command.

        :raises UsageError: if they are wrong.
        :raises HelpRequested: if they ask for help.
        """
        parser = self.parser()
        # Only the second lets options stand between words, and before Python 3.13 it loses "--".
        is_plain = "--" in words or not any(word.startswith("-") for word in words)
        return parser.parse_args(words) if is_plain else parser.parse_intermixed_args(words)

    def parser(self) -> CommandParser:
        """Return a parser that raises `UsageError` and never exits."""
        summary = f"{self.summary[:1].upper()}{self.summary[1:]}."
        parser = CommandParser(self.name, summary, f"{self.description}{self._example_lines()}")
        add_arguments(parser, (*self.arguments, *OUTPUT_ARGUMENTS))
        return parser

    def _example_lines(self) -> str:
        if not self.examples:
            return ""
        width = max(len(example.words) for example in self.examples)
        lines = (f"  {example.words.ljust(width)}   {example.meaning}" for example in self.examples)
        return "\n\n" + "\n".join(lines)

    def help(self) -> str:
        """Return the help text: summary, usage, description, arguments."""
        return self.parser().format_help()

    def function(self) -> Callable[[Session, Namespace], Result]:
        """Import and return the function that answers."""
        module, _, name = self.answer.partition(":")
        found: Callable[[Session, Namespace], Result] = getattr(
            import_module(f"{__package__}.{self.name}.{module}"), name
        )
        return found

    @property
    def completes_libraries(self) -> bool:
        """Return True if an argument is completed with the names of loaded libraries."""
        return any(argument.completes_libraries for argument in self.arguments)


def names() -> tuple[str, ...]:
    """Return the names of all commands, sorted."""
    import pkgutil  # listing modules by it imports inspect, which takes 5 ms

    folders = import_module(__package__).__path__
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folders) if module.ispkg))


def find_command(name: str) -> Optional[Command]:
    """Return a command by its name, None if there is none; only its declaration is imported."""
    if not name.isidentifier():
        return None
    full_name = f"{__package__}.{name}"
    try:
        found: Optional[Command] = getattr(import_module(full_name), "COMMAND", None)
    except ModuleNotFoundError as error:
        if error.name != full_name:
            raise
        return None
    return found


def commands_of(*systems: str) -> Mapping[str, Command]:
    """Return the commands for programs of some systems, by name; without systems, all commands."""
    found = {name: command for name in names() if (command := find_command(name)) is not None}
    return {name: command for name, command in found.items() if not systems or command.os in systems}
