"""Which words of an answer are coloured?

Colour is lexed from the finished plain text and has no meaning of its own.
"""

from __future__ import annotations

from typing import ClassVar

from ..guards import try_optional


def colourise(text: str) -> str:
    """Add ANSI colour to an answer; without pygments the text stays as it is."""
    return try_optional(lambda: _highlighted(text), text)


def _highlighted(text: str) -> str:
    from pygments import highlight
    from pygments.formatters.terminal import TerminalFormatter
    from pygments.lexer import RegexLexer
    from pygments.token import Comment, Generic, Keyword, Name, Number, Text

    class AnswerLexer(RegexLexer):  # type: ignore[misc, unused-ignore]
        """Lex the words of a verdict."""

        name = "dlwhy"
        tokens: ClassVar = {
            "root": [
                (r"\b(stays loaded|stays)\b", Generic.Deleted),
                (r"\b(can go|being unloaded)\b", Generic.Inserted),
                (r"\b(not known|unknown|problem)\b", Keyword),
                (r"\b0x[0-9a-f]+\b", Number),
                (r"\bl_[a-z_0-9]+\b", Name.Attribute),
                (r"-{3,}", Comment),
                (r"\w+", Text),
                (r"[\W]", Text),
            ]
        }

    return str(highlight(text, AnswerLexer(stripnl=False, ensurenl=False), TerminalFormatter()))
