"""What does the user of install.py read, and how is it put?"""

from __future__ import annotations


def say(text: str) -> None:
    """Print a line at once, so that it stands in order with the output of child processes."""
    print(text, flush=True)  # noqa: T201 - to the user who runs install.py


def dotted(version: tuple[int, ...]) -> str:
    """Write a version as 3.11."""
    return ".".join(map(str, version))


def in_words(error: OSError) -> str:
    """Say what the system refused, and of which file."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
