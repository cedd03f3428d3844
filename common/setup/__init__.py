"""How does dlwhy get into a user's debuggers and shell, and out of them again?"""

from __future__ import annotations
