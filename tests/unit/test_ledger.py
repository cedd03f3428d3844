"""Is nothing lost in the sums of a long trace without a word?"""

from __future__ import annotations

from dlwhy.common.linux.trace.events import DescriptorLeak, LibraryInstance
from dlwhy.common.linux.trace.ledger import EventLedger
from dlwhy.common.trace.events import EventHeader
from dlwhy.common.trace.ledger import MAX_LISTED, CountsAtStart

LIBRARY = LibraryInstance("libA.so", "/opt/app/libA.so", 0, 0x5000, 0x7000, 0x7000, 0x8000)


def test_what_is_too_many_to_list_is_told() -> None:
    ledger = EventLedger(CountsAtStart({}, complete=True))
    for number in range(MAX_LISTED + 7):
        assert ledger.problems() == () or number > MAX_LISTED
        ledger.add(DescriptorLeak(EventHeader(number, 0.0, 4711), LIBRARY, 3, "/etc/hostname", ()))
    assert len(ledger.descriptor_leaks) == MAX_LISTED
    (problem,) = ledger.problems()
    assert problem.where == "descriptor_leaks"
    assert problem.message.startswith(f"7 more events occurred than the {MAX_LISTED} that are listed here")
