"""dlwhy explains, inside the debugger, why a dynamic library stays loaded and what a close would unload."""

from __future__ import annotations

__version__ = "0.1.0"
