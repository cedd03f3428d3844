"""Which words do the answers of several commands share?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..model import LoaderInfo, Problem, TargetInfo
from .document import Facts, Part, Sentence


def size_words(size: int) -> str:
    """Return a number of bytes in a readable unit."""
    if size < 1 << 20:
        return f"{size / 1024:.0f} KiB"
    return f"{size / (1 << 20):.1f} MiB"


# Smaller values are counts and flags: nothing is mapped below, on Linux by default (vm.mmap_min_addr).
_FIRST_POINTER = 65536


def layout_parts(target: TargetInfo, loader: LoaderInfo) -> Iterator[Part]:
    """Yield the target, the loader and the source of the offsets."""
    version = f" {loader.version}" if loader.version else ""
    rows = [(f"{loader.kind or 'loader not known'}{version}, {target.arch}", target.description)]
    if loader.layout:
        rows.append((f"offsets: {loader.layout.kind.value}", loader.layout.detail))
    yield Facts(tuple(rows))


def problem_parts(problems: Sequence[Problem]) -> Iterator[Part]:
    """Yield the problems."""
    for problem in problems:
        yield Sentence(f"problem: {problem.where}: {problem.message}")


def format_value(value: int) -> str:
    """Return a value as text: counts in decimal, pointers in hexadecimal."""
    return str(value) if value < _FIRST_POINTER else f"{value:#x}"


def times(count: object) -> str:
    """Return a number of times in words."""
    return "once" if count == 1 else f"{count} times"


def join_first(words: Sequence[str], most: int) -> str:
    """Join the first few of many words, and the number of the others."""
    others = len(words) - most
    return join([*words[:most], *([f"{others} more"] if others > 0 else [])])


def join(words: Iterable[str]) -> str:
    """Join words with commas and an "and"."""
    items = list(words)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
