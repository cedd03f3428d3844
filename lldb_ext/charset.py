"""Which text can LLDB write?  It writes UTF-8 in every locale, and its Python drops what the locale lacks."""

from __future__ import annotations

import locale

from ..common.charset import written_as_utf8


def shown(text: str) -> str:
    """Return text as LLDB can show it: with escape sequences where the locale's encoding is not UTF-8."""
    return written_as_utf8(text, locale.getpreferredencoding(False))
