"""Where do the members of the loader's structures lie?"""

from __future__ import annotations
