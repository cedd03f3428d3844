"""Does a number of things have the noun that fits it?"""

from __future__ import annotations

import pytest
from dlwhy.common.counts import quantity
from dlwhy.common.linux.dumps.elfcore import list_names


@pytest.mark.parametrize(("count", "words"), [(0, "0 more libraries"), (1, "1 more library"), (2, "2 more libraries")])
def test_quantity(count: int, words: str) -> None:
    assert quantity(count, "more library") == words


def test_names_of_files() -> None:
    told = [list_names([f"/lib/{number}.so" for number in range(count)]) for count in range(1, 20)]
    assert any(each.endswith(" and 1 more file") for each in told)
    assert any(each.endswith(" and 2 more files") for each in told)
