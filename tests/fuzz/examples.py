"""How many inputs does a fuzz target get?

A short run, always the same, is part of every test run. A long one, with other inputs each time, is asked for by the
number of inputs in all, which the targets share as they share those of a short run:

    DLWHY_FUZZ_EXAMPLES=100000 python3 install.py test -- tests/fuzz
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

VARIABLE = "DLWHY_FUZZ_EXAMPLES"
#: So many inputs have all targets together in a short run; `test_fuzz_examples` counts them.
USUAL_TOTAL = 3500

_T = TypeVar("_T", bound=Callable[..., Any])


def examples(usually: int) -> Callable[[_T], _T]:
    """Give hypothesis its settings; the targets watch their own time, because a first example imports modules."""
    total = int(os.environ.get(VARIABLE, str(USUAL_TOTAL)))

    def decorate(test: _T) -> _T:
        chosen = settings(
            max_examples=max(1, usually * total // USUAL_TOTAL),
            derandomize=VARIABLE not in os.environ,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        decorated = chosen(test)
        decorated.usually = usually
        return decorated

    return decorate
