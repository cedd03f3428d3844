"""How long does a fuzz target run?

A short run, always the same, is part of every test run. A long one, with other examples each time:

    DLWHY_FUZZ_EXAMPLES=100000 python3 install.py test -- tests/fuzz
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

VARIABLE = "DLWHY_FUZZ_EXAMPLES"


def examples(usually: int) -> settings:
    """Give hypothesis its settings; the targets watch their own time, because a first example imports modules."""
    return settings(
        max_examples=int(os.environ.get(VARIABLE, str(usually))),
        derandomize=VARIABLE not in os.environ,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
