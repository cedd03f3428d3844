"""Which text can LLDB write?  It writes UTF-8 in every locale, and its Python drops characters not in the locale."""

from __future__ import annotations

import locale

from ..common.charset import written_as_utf8


def shown(text: str) -> str:
    """Return text that LLDB can show: with escape sequences if the locale's encoding is not UTF-8."""
    return written_as_utf8(text, locale.getpreferredencoding(False))
