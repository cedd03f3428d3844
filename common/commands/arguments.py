"""Which arguments does a command take, and what do a user's words mean?

Words that are plainly right are read here.  All others, and help, are left to argparse: it knows every way to write an
option and has the words for every mistake, but takes a quarter of the shell's time to import and set up.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence
    from typing import Any, Optional
else:

    class Namespace:
        """Values by name, as ``argparse.Namespace``."""

        def __init__(self, **values):
            self.__dict__.update(values)


#: The ``nargs`` of a last argument that takes all words from the first one on that is no option.
REMAINDER = "..."

#: What of argparse's is heeded here.
_OF_OPTIONS = frozenset({"action", "choices", "default", "help", "metavar", "type"})
_OF_POSITIONAL = frozenset({"default", "help", "metavar", "nargs"})


class Argument(NamedTuple):
    """An argument as argparse takes it.

    ``completes_libraries`` asks for the names of what is loaded; of the options with one ``choice`` only one can be
    given.
    """

    flags: tuple[str, ...]
    options: Mapping[str, Any]
    completes_libraries: bool = False
    choice: str = ""

    @property
    def name(self) -> str:
        """Give the name of its value."""
        long = [flag for flag in self.flags if flag.startswith("--")]
        return (long or self.flags)[0].lstrip("-").replace("-", "_")

    @property
    def is_option(self) -> bool:
        """Tell options from positional arguments."""
        return self.flags[0].startswith("-")

    @property
    def is_switch(self) -> bool:
        """Tell options without a value."""
        return self.options.get("action") == "store_true"

    @property
    def takes_many(self) -> bool:
        """Tell whether it takes any number of words."""
        return self.options.get("nargs") in ("*", REMAINDER)

    @property
    def default(self) -> Any:
        """Give the value where the user gives none."""
        return self.options.get("default", False if self.is_switch else None)


def argument(*flags: str, completes_libraries: bool = False, choice: str = "", **options: Any) -> Argument:
    """Define an argument."""
    return Argument(flags, options, completes_libraries, choice)


def read_plain_words(arguments: Sequence[Argument], words: Sequence[str]) -> Optional[Namespace]:
    """Read words that are plainly right as argparse would; None where it takes argparse to tell.

    Plain are options in full, each value as argparse's ``type`` and ``choices`` allow it, and the positional words all
    in one place.
    """
    if "--" in words:
        return None
    values = {item.name: item.default for item in arguments}
    options = {flag: item for item in arguments for flag in item.flags if item.is_option}
    positional = [item for item in arguments if not item.is_option]
    pending = list(reversed(words))
    plain: list[str] = []
    try:
        taken = _take_options(options, pending, values)
        while pending and (not pending[-1].startswith("-") or _takes_rest(positional, plain)):
            plain.append(pending.pop())
        taken += _take_options(options, pending, values)
        _give_out(positional, plain, values)
    except ValueError:
        return None
    choices = [item.choice for item in taken if item.choice]
    return None if pending or len(set(choices)) < len(choices) else Namespace(**values)


def _take_options(options: Mapping[str, Argument], pending: list[str], values: dict[str, Any]) -> list[Argument]:
    """Read options up to the first word that is none."""
    taken = []
    while pending and pending[-1].startswith("-"):
        flag, equals, word = pending.pop().partition("=")
        item = options.get(flag)
        if item is None or item.options.keys() - _OF_OPTIONS or (equals and not flag.startswith("--")):
            raise ValueError(flag)
        if item.is_switch:
            if equals:
                raise ValueError(flag)
            values[item.name] = True
        else:
            if not equals:
                if not pending or pending[-1].startswith("-"):
                    raise ValueError(flag)
                word = pending.pop()
            values[item.name] = item.options.get("type", str)(word)
            if values[item.name] not in item.options.get("choices", (values[item.name],)):
                raise ValueError(word)
        taken.append(item)
    return taken


def _takes_rest(positional: Sequence[Argument], plain: Sequence[str]) -> bool:
    return bool(plain and positional) and positional[-1].options.get("nargs") == REMAINDER


def _give_out(positional: Sequence[Argument], words: Sequence[str], values: dict[str, Any]) -> None:
    """Give each positional argument its word, and the last one maybe all others."""
    last = positional[-1] if positional and positional[-1].takes_many else None
    single = positional[:-1] if last else positional
    if any(item.options.keys() - _OF_POSITIONAL for item in positional) or any("nargs" in s.options for s in single):
        raise ValueError("not one of the simple kinds")
    if len(words) < len(single) or (last is None and len(words) > len(single)):
        raise ValueError("too few or too many words")
    values.update(zip((item.name for item in single), words))
    if last is not None:
        values[last.name] = list(words[len(single) :])


def byte_count(text: str) -> int:
    """Take a number of bytes such as ``500M``; K, M, G and T stand for powers of 1024.

    :raises ValueError: if it is none, or 0.
    """
    power = "KMGT".find(text[-1:].upper()) + 1 if text else 0
    number = int(text[:-1] if power else text)
    if number < 1:
        raise ValueError(text)
    return number << 10 * power


def number_or_all(option: str, text: str) -> Optional[int]:
    """Take the value of an option that counts; None stands for 'all'.

    :raises UsageError: if it is neither a number from 1 on nor 'all'.
    """
    if text == "all":
        return None
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise UsageError(f"{option} takes a number from 1 on, or 'all', not '{text}'")
    return number
