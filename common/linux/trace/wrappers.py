"""Which libraries only pass opens and closes on, so that who called them is asked for?"""

from __future__ import annotations

import re

from ...trace.events import Site

#: Libraries that open and close what their callers name: GModule, QLibrary and QPluginLoader, SDL_LoadObject, libtool's
#: ltdl, Python's ctypes, APR, NSPR, and what is put before dlopen by sanitizers.
_LIBRARIES = (
    "libgmodule-2.0.so",
    "libQt5Core.so",
    "libQt6Core.so",
    "libQtCore.so",
    "libSDL-1.2.so",
    "libSDL2-2.0.so",
    "libSDL3.so",
    "libltdl.so",
    "_ctypes.",
    "libffi.so",
    "libapr-1.so",
    "libnspr4.so",
    "libasan.so",
    "libhwasan.so",
    "liblsan.so",
    "libtsan.so",
    "libubsan.so",
    "libclang_rt.",
)
#: The same where a sanitizer is part of the program.
_FUNCTIONS = re.compile(r"(?:_{2,3}interceptor_(?:trampoline_)?)?dl(?:m?open|close)")


def only_wraps(site: Site) -> bool:
    """Return True if what calls dlopen or dlclose there does so for its own caller."""
    named = site.function is not None and _FUNCTIONS.fullmatch(site.function) is not None
    return named or (site.library or "").startswith(_LIBRARIES)
