"""Does docs/json.md have an example of every command, and is each what the schema promises?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import dlwhy
import pytest
from dlwhy.common.commands.registry import names
from dlwhy.tests.schema import VALIDATOR, validator_of

PAGE = (Path(dlwhy.__file__).parent / "docs" / "json.md").read_text(encoding="utf-8")
EXAMPLES: dict[str, Any] = {
    title: json.loads(text)
    for title, text in re.findall(r"^## ([^\n]*)\n\n[^\n]*\n\n```json\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
}
EVENTS = {"Events of dltrace": "event", "Events of dlltrace": "dll_event"}


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_is_what_the_schema_promises(title: str) -> None:
    document = EXAMPLES[title]
    VALIDATOR.validate(document)
    if title in EVENTS:
        validator_of(EVENTS[title]).validate(document)
    else:
        assert document["command"] == title.partition(" ")[0]


def test_every_command_has_an_example() -> None:
    assert {title.partition(" ")[0] for title in EXAMPLES if title not in EVENTS} == set(names())
    assert set(EVENTS) <= set(EXAMPLES)
    assert len(EXAMPLES) == PAGE.count("```json")


@pytest.mark.parametrize("title", EVENTS)
def test_the_schema_itself_judges_lines_of_logs(title: str) -> None:
    line = EXAMPLES[title]
    for key in line:
        damaged = {name: value for name, value in line.items() if name != key}
        assert not VALIDATOR.is_valid(damaged), key
    assert not VALIDATOR.is_valid({**line, "event": "deed"})
    assert not VALIDATOR.is_valid({**line, "schema": "dlwhy/2"})
    assert VALIDATOR.is_valid({**line, "more": 1}), "keys are added"
