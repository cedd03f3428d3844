"""Do the TypedDicts of the documents say what the schema says, and does the schema say what each of its words means?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from dlwhy.common.render import json_types
from dlwhy.common.render.json_types import (
    DllgoneDocument,
    DllplanAllDocument,
    DllplanDocument,
    DllshareDocument,
    DllstateDocument,
    DlltraceDocument,
    DlplanAllDocument,
    DlplanDocument,
    DlstateDocument,
    DltraceDocument,
    Envelope,
    Range,
)
from dlwhy.tests.schema import SCHEMA

DEFINITIONS: Mapping[str, Any] = SCHEMA["$defs"]
DOCUMENTS = {
    "dlstate": DlstateDocument,
    "dlplan": DlplanDocument,
    "dlplan_all": DlplanAllDocument,
    "dltrace": DltraceDocument,
    "dllshare": DllshareDocument,
    "dllstate": DllstateDocument,
    "dllplan": DllplanDocument,
    "dllplan_all": DllplanAllDocument,
    "dllgone": DllgoneDocument,
    "dlltrace": DlltraceDocument,
}
#: Words that say nothing without the help of a command, or something else in other places.
BANNED = frozenset(
    [
        "vain",
        "went",
        "stayed",
        "surprises",
        "adds",
        "remarked",
        "deeds",
        "left",
        "as",
        "by",
        "space",
        "live",
        "lwp",
        "at_least",
        "early",
        "unended",
        "keeps",
    ]
)
PLAIN = {"string": str, "integer": int, "number": float, "boolean": bool}


def resolved(node: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Follow references; gives what stands there, and whether null may stand there too."""
    if "$ref" in node:
        return resolved(DEFINITIONS[node["$ref"].rpartition("/")[2]])
    if "anyOf" in node:
        (inner,) = (each for each in node["anyOf"] if each != {"type": "null"})
        return resolved(inner)[0], True
    types = node.get("type")
    return node, (isinstance(types, list) and "null" in types) or None in node.get("enum", ())


def keys_of(node: Mapping[str, Any], *, always: bool = True) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """List the keys of an object, each with what it may be, and whether it is always there."""
    for key, value in node.get("properties", {}).items():
        # What only narrows a key that is described elsewhere says nothing of its type.
        if value is not False and set(value) - {"minItems", "maxItems"}:
            yield key, value, always and key in node.get("required", ())
    for part in node.get("allOf", ()):
        if "then" in part:
            yield from keys_of(part["then"], always=False)
        elif "$ref" in part:
            yield from keys_of(resolved(part)[0], always=always)


def differences(hint: Any, node: Mapping[str, Any], where: str) -> Iterator[str]:
    """Compare a type with what the schema lets stand in its place."""
    node, may_be_null = resolved(node)
    choices = [each for each in get_args(hint) if each is not type(None)] if get_origin(hint) is Union else [hint]
    if (type(None) in get_args(hint)) != may_be_null:
        yield f"{where}: null is {'' if may_be_null else 'not '}allowed"
    if len(choices) > 1:
        branches = node["oneOf"]
        assert len(choices) == len(branches), where
        for choice, branch in zip(choices, branches):
            keys = {**node["properties"], **branch["properties"]}
            whole = {"properties": keys, "required": [*node["required"], *branch["required"]]}
            yield from object_differences(choice, whole, f"{where}.{branch['properties']['event']['const']}")
        return
    (choice,) = choices
    if hasattr(choice, "__required_keys__"):
        yield from object_differences(choice, node, where)
    elif choice == Range and "prefixItems" in node:
        return
    elif get_origin(choice) is list:
        yield from differences(get_args(choice)[0], node["items"], f"{where}[]")
    elif get_origin(choice) is dict:
        yield from differences(get_args(choice)[1], node["additionalProperties"], f"{where}{{}}")
    else:
        types = node.get("type", "string")  # constants and enumerations are of strings
        names = [each for each in ([types] if isinstance(types, str) else types) if each != "null"]
        if [PLAIN.get(name) for name in names] != [choice]:
            yield f"{where}: {choice}, not {names}"


def object_differences(choice: Any, node: Mapping[str, Any], where: str) -> Iterator[str]:
    """Compare the keys of a TypedDict with those of an object."""
    found: dict[str, list[tuple[Mapping[str, Any], bool]]] = {}
    for key, value, always in keys_of(node):
        found.setdefault(key, []).append((value, always))
    hints = get_type_hints(choice)
    # Only the lines of --log have the schema's name.
    expected = {key for key in found if key != "schema" or key in hints}
    if expected != set(hints):
        yield f"{where}: only one of both has {sorted(expected ^ set(hints))}"
    for key in expected & set(hints):
        if any(always for _, always in found[key]) != (key in choice.__required_keys__):
            yield f"{where}.{key}: is {'' if key in choice.__required_keys__ else 'not '}always there"
        nullable = [resolved(value)[1] for value, _ in found[key]]
        for (value, _), null in zip(found[key], nullable):
            hint = hints[key]
            if any(nullable) and not null:
                hint = next(each for each in get_args(hint) if each is not type(None))
            yield from differences(hint, value, f"{where}.{key}")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_types_and_schema_say_the_same(name: str) -> None:
    node = {"allOf": [{"$ref": "#/$defs/envelope"}, {"$ref": f"#/$defs/{name}"}]}
    assert list(object_differences(DOCUMENTS[name], node, name)) == []


def test_every_document_has_a_type() -> None:
    assert [each["$ref"].rpartition("/")[2] for each in DEFINITIONS["document"]["oneOf"]] == list(DOCUMENTS)
    assert set(get_type_hints(Envelope)) == set(DEFINITIONS["envelope"]["properties"])


def test_a_difference_is_found() -> None:
    node = {"properties": {"pid": {"type": "integer"}, "more": {"type": "string"}}, "required": ["pid"]}
    found = list(object_differences(json_types.TargetDocument, node, "target"))
    assert found[0] == "target: only one of both has ['arch', 'description', 'kind', 'more', 'os']"
    assert found[1] == "target.pid: null is not allowed"
    hold = {
        "properties": {"kind": {"type": "integer"}},
        "allOf": [{"then": {"properties": {"count": {"type": "integer"}}}}],
    }
    assert {each.partition(": ")[0] for each in object_differences(json_types.DllHoldDocument, hold, "hold")} >= {
        "hold",
        "hold.kind",
        "hold.count",
    }


def properties(node: Any, where: str = "") -> Iterator[tuple[str, str, Any]]:
    """List every property of the schema, each with its place."""
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict) and not where.endswith(".if"):
            for key, value in node["properties"].items():
                yield where, key, value
        for key, value in node.items():
            yield from properties(value, f"{where}.{key}")
    elif isinstance(node, list):
        for number, each in enumerate(node):
            yield from properties(each, f"{where}[{number}]")


def test_every_property_is_described() -> None:
    silent = []
    for where, key, value in properties(DEFINITIONS):
        if value is False or "description" in value or resolved(value)[0].get("description"):
            continue
        # What only narrows a property that is described elsewhere, or is the only value that there is.
        if set(value) - {"const", "enum", "minItems", "maxItems"}:
            silent.append(f"{where}.{key}")
    assert silent == []


def words(node: Any) -> Iterator[str]:
    """List the keys and the values of enumerations."""
    if isinstance(node, dict):
        yield from node.get("properties", {})
        yield from (each for each in (*node.get("enum", ()), node.get("const")) if isinstance(each, str))
        for value in node.values():
            yield from words(value)
    elif isinstance(node, list):
        for each in node:
            yield from words(each)


def test_every_word_explains_itself() -> None:
    # "keeps" as an outcome says what a close does, "live" which kind of target it is.
    allowed = {"keeps", "live"}
    found = set(words(DEFINITIONS))
    assert found & BANNED <= allowed
    assert not {key for _, key, _ in properties(DEFINITIONS)} & BANNED
    assert [word for word in found if not re.fullmatch(r"[a-zA-Z0-9_/-]+", word)] == []


def test_unknown_is_no_word() -> None:
    assert "unknown" not in set(words(DEFINITIONS))
