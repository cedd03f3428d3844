"""What did a trace tell, on one line for each event?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Optional, Protocol, Union

from dlwhy.common.linux.trace.events import Close, DescriptorLeak, Event, Open, Pin
from dlwhy.common.trace.events import Site
from dlwhy.common.windows.trace.events import DllEvent, DllOpen, DllPin


def told(events: Sequence[Event]) -> list[str]:
    """Put events into words; what belongs to another one, or raced, or came at exit says so in front."""
    return [_prefix(event) + _tell(event) for event in events]


def _prefix(event: Union[Event, DllEvent]) -> str:
    header = event.header
    words = [
        f"in {header.within_event}" if header.within_event else "",
        "at exit" * header.at_exit,
        "raced" * header.raced,
    ]
    words.append(f"by {header.initiated_by}" if header.initiated_by != "user" else "")
    return "".join(f"{word}: " for word in words if word)


def _tell(event: Event) -> str:
    if isinstance(event, Open):
        return _tell_open(event)
    if isinstance(event, Close):
        return _tell_close(event)
    name = event.library.name if event.library else "?"
    if isinstance(event, Pin):
        causes = [event.origin or "?", *(event.symbols or ())]
        return f"pin {name}: {' '.join(causes)}" + _list(" for", event.looked_up_by or ())
    if isinstance(event, DescriptorLeak):
        return f"leak {name}: {event.descriptor_target}" + _list(" by", (place(site) for site in event.opened_at or ()))
    return f"register {name}: {place(event.destructor)}" + (
        f", of {event.destructor.library}" if event.is_elsewhere else ""
    )


def _tell_open(event: Open) -> str:
    library = f" {event.library.name}" if event.library and event.library.name != event.requested else ""
    requested = "?" if event.requested is None else event.requested or "the program"
    return f"open {requested}: {event.result.value}{library}{_list(' +', _names(event.loaded))}" + _list(
        " -", _names(event.unloaded)
    )


def _tell_close(event: Close) -> str:
    name = event.library.name if event.library else "?"
    text = f"close {name} {event.open_count_before or 0}: {event.predicted_outcome.value}"
    text += _list(" -", _names(event.predicted_unloads or ()))
    text += _list(", then -", _names(event.predicted_by_nested_closes or ())) + _list(
        ", for the outer one -", _names(event.predicted_for_outer_close or ())
    )
    text += _list("; mistaken in", _names(event.predicted_but_kept or ())) + _list(
        "; surprised by", _names(event.unloaded_but_not_predicted or ())
    )
    text += _list("; stays", (library.name for library in event.kept or ()))
    return text + ("" if event.ended else "; not seen to end")


def place(site: Optional[Site]) -> str:
    """Name a place in code."""
    return "?" if site is None else f"{site.library}:{site.function}"


class _Named(Protocol):
    @property
    def name(self) -> str: ...


def _names(instances: Iterable[_Named]) -> list[str]:
    return [instance.name for instance in instances]


def _list(word: str, names: Iterable[str]) -> str:
    return "".join(f"{word if not index else ''} {name}" for index, name in enumerate(names))


def told_dlls(events: Sequence[DllEvent]) -> list[str]:
    """Put events of a trace of DLLs into words, with the counts before and after."""
    return [_tell_dll(event) for event in events]


def _tell_dll(event: DllEvent) -> str:
    if isinstance(event, DllPin):
        return f"{_prefix(event)}pin {event.library.name} by {event.ntdll_function}"
    counts = f"{_count(event.load_count_before)}-{_count(event.load_count_after)}"
    if isinstance(event, DllOpen):
        text = f"{_prefix(event)}load {event.requested} {counts}: {event.result.value}"
        text += "" if event.ntdll_function == "LdrLoadDll" else f" by {event.ntdll_function}"
        return text + _list(" +", _names(event.loaded)) + _list(" -", _names(event.unloaded))
    name = event.library.name if event.library else "?"
    text = f"{_prefix(event)}free {name} {counts}: {event.refusal or event.predicted_outcome.value}"
    text += _list(" -", _names(event.predicted_unloads or ())) + _list(
        ", then -", _names(event.unloaded_by_nested_closes or ())
    )
    text += _list("; mistaken in", _names(event.predicted_but_kept or ())) + _list(
        "; surprised by", _names(event.unloaded_but_not_predicted or ())
    )
    text += _list("; detached", event.got_process_detach or ()) + _list(
        "; stays", (dll.name for dll in event.kept or ())
    )
    return text + ("" if event.ended else "; not seen to end")


def _count(value: Optional[int]) -> str:
    return "?" if value is None else str(value)
