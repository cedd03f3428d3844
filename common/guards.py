"""What happens when code fails that an answer can do without?

``except Exception`` stands here, and in the command runners of the hosts, and nowhere else.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    _T = TypeVar("_T")


def try_optional(use: Callable[[], _T], otherwise: _T) -> _T:
    """Return what ``use`` returns, or ``otherwise`` if the optional package that it uses is absent or fails in any way.

    An import can fail by more than ImportError: elftools imports pdb, whose imports fail inside LLDB 19 by
    AttributeError.
    """
    try:
        return use()
    except Exception:  # noqa: BLE001 - costs what the package gives, never the answer
        return otherwise
