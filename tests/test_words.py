"""Is the English of code, text and schema that of docs/words.md: one word per thing, and no banned ones?"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import pytest

from .support.tree import ROOT, module_files

SCHEMA = "common/data/schema/dlwhy-1.schema.json"
#: CHANGELOG is history, and names what was renamed; docs/words.md names what is not written.
PROSE = (
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "words.md"),
)

#: What the docstring of a function begins with.
VERBS = frozenset(
    re.findall(
        r"\w+",
        "Add Announce Answer Append Ask Assemble Attribute Begin Break Build Call Cancel Change Charge Check "
        "Choose Close Collect Compare Compile Complete Compute Convert Count Create Decide Decode Decompress "
        "Define Delete Demangle Describe Discard Drop End Enlarge Evaluate Examine Execute Extend Fill Find Finish "
        "Flatten Follow Forget Format Group Handle Hash Import Install Join Limit List Listen Load Lower Make Map "
        "Mark Open Pack Parse Predict Prepare Print Raise Read Receive Record Redirect Register Remove Replace "
        "Report Require Restore Resume Return Run Search Send Set Shorten Show Simulate Sort Split Start Stop "
        "Store Switch Try Turn Undo Unload Unwind Visit Wait Walk Wrap Write Yield",
    )
)


class Rule(NamedTuple):
    """A banned pattern, where it is banned, and what is written instead."""

    pattern: str
    #: D docstrings, C comments, S other strings, N names, K keys and values of the schema, J its descriptions, M prose.
    scope: str
    instead: str


RULES = (
    Rule(r"\b(?:gives?|gave|giving)\b", "DC", "return, yield, have"),
    Rule(r"\b(?:tells?|told|telling)\b(?! .{0,40}\bapart\b)", "DC", "say, report, return"),
    Rule(r"\b(?:None|[Ee]mpty|0|False|True|[Nn]othing) (?:where|when)\b", "DC", "None if"),
    Rule(r"\bto thank\b", "DCSJM", "cause"),
    Rule(r"(?i)(?<![a-z])vain(?![a-z])", "DCSNKJM", "closes_not_open"),
    Rule(r"(?i)(?<![a-z])went(?![a-z])", "DCNKJ", "unloaded"),
    Rule(r"\bThese go\b|\bTo make .{1,40} go\b|\bwould go\b|\b[Nn]othing (?:more )?goes\b", "SM", "unloaded"),
    Rule(r"(?i)(?<![a-z])deeds?(?![a-z])", "DCSNKJM", "call sites"),
    Rule(r"(?i)(?<![a-z])remark(?:ed|s)?(?![a-z])", "DCSNKJM", "predicted by nested closes"),
    Rule(r"(?i)(?<![a-z])surpris(?:e|es|ing)(?![a-z])", "DCSNKJM", "not predicted"),
    Rule(r"^(?:stayed|adds)$", "NK", "predicted_but_kept, predicted_for_outer_close"),
    Rule(r"(?i)(?<![a-z])judg(?:e|es|ed|ing)(?![a-z])", "DCSNKJM", "verdict, explain, check"),
    Rule(r"(?i)(?<![a-z])forecasts?(?![a-z])|\bfore(?:see|saw|seen)\b", "DCSNKJM", "prediction; unexpected"),
    Rule(r"(?i)absurd", "DCSNJM", "implausible"),
    Rule(r"(?i)\bmeanwhile\b", "DCSJM", "during that, since, in between"),
    Rule(
        r"\b[Mm]aybe\b|\bfor ever\b|\bas ever\b|\bamid\b|\bwithout a word\b|\bit is no\b"
        r"|\bno matter\b(?! (?:how|what|which))",
        "DCSJM",
        "perhaps, forever, as usual, within, silently, it is not a",
    ),
    Rule(r"\bbesides\b", "DCJ", "in addition to, beyond"),
    Rule(r"\b(?:of|than) (?:now|then|before)\b", "DCSJM", "current, previous"),
    Rule(r"\b(?:come|came|becomes?|became) of\b", "DCSJM", "result, what happens to"),
    Rule(r"\b[Ss]o (?:many|much|often)\b(?! (?:as|that)\b)", "DCSJM", "this many, at most N"),
    Rule(r"\binto words\b", "DC", "as text"),
    Rule(r"\b(?:is|are|was|be|being) had\b", "DCJM", "obtained, available"),
    Rule(r"\b[Mm]arkings?\b", "DCSJ", "mark phase"),
    Rule(r"\b(?:a|the|each|one|another|every|two|this|earlier|later|last|of) readings?\b", "DCSJM", "snapshot, read"),
    Rule(
        r"(?<![-_`.])\b(?:a|an|the|each|one|this|other|another|its|that|of|two|all|which|previous|condemned|kept)"
        r" maps?\b(?! of files)",
        "DC",
        "link map",
    ),
    Rule(r"(?<![`_\w>.\"-])(?<!struct )link_maps?\b(?![`*])|\blink-maps?\b", "DCJM", "link map, or ``link_map``"),
    Rule(r"^_?(?:opening|closing|openings|closings|loading|unloading)$", "N", "open_call, close_call, ..."),
    Rule(
        r"^_?(?:World|Judge|Reach|Deeds|Moment|Situation|Unit|Beginning|Reading|Watching|Motion|Chosen|Private)$",
        "N",
        "a name that says what it is",
    ),
)


class Piece(NamedTuple):
    """A text of the tree: its kind as in `Rule.scope`, where it is, and what it says."""

    kind: str
    place: str
    text: str


def code() -> Iterator[str]:
    """Yield the files of the package that are no tests."""
    yield from (str(path) for path in (*module_files(), "install.py") if not str(path).startswith("tests/"))


def docstrings(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.Constant]]:
    """Yield the docstrings of a file with what they are of."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield node, first.value


def pieces_of_code(path: str) -> Iterator[Piece]:
    """Yield docstrings, comments, strings and names of a file."""
    source = (ROOT / path).read_text(encoding="utf-8")
    found = {}
    for _, value in docstrings(ast.parse(source)):
        found[value.lineno, value.col_offset] = value
        yield Piece("D", f"{path}:{value.lineno}", str(value.value))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        place = f"{path}:{token.start[0]}"
        if token.type == tokenize.COMMENT and not token.string.startswith(("# type", "# noqa", "# pragma", "#!")):
            yield Piece("C", place, token.string)
        elif token.type == tokenize.NAME:
            yield Piece("N", place, token.string)
        elif token.start not in found and tokenize.tok_name[token.type] in ("STRING", "FSTRING_MIDDLE"):
            yield Piece("S", place, token.string)


def pieces_of_schema(value: object, place: str) -> Iterator[Piece]:
    """Yield keys, values and descriptions of the schema."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "description" and isinstance(inner, str):
                yield Piece("J", place, inner)
            elif place.endswith(("/properties", "/$defs")):
                yield Piece("K", place, key)
            yield from pieces_of_schema(inner, f"{place}/{key}")
    elif isinstance(value, list):
        for inner in value:
            if place.endswith("/enum") and isinstance(inner, str):
                yield Piece("K", place, inner)
            yield from pieces_of_schema(inner, place)
    elif isinstance(value, str) and place.endswith("/const"):
        yield Piece("K", place, value)


@cache
def pieces() -> tuple[Piece, ...]:
    return tuple(_pieces())


def _pieces() -> Iterator[Piece]:
    for path in code():
        yield from pieces_of_code(path)
    for name in PROSE:
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
            yield Piece("M", f"{name}:{number}", line)
    yield from pieces_of_schema(json.loads((ROOT / SCHEMA).read_text(encoding="utf-8")), SCHEMA)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.instead[:30])
def test_no_banned_word(rule: Rule) -> None:
    found = [
        f"{p.place}: {p.text.strip()[:120]}"
        for p in pieces()
        if p.kind in rule.scope and re.search(rule.pattern, p.text)
    ]
    assert found == [], f"write: {rule.instead}"


def test_a_function_s_docstring_begins_with_an_approved_verb_and_a_noun() -> None:
    pronoun = re.compile(
        r"^\w+ (?:it|itself|them|themselves|those|these|one that)\b|^\w+ (?:all|one|nothing)(?=[.,;:]|$)|^\w+\.$"
    )
    wrong = []
    for path in code():
        for node, value in docstrings(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            first = str(value.value).splitlines()[0]
            if isinstance(node, ast.FunctionDef) and (
                first.split()[0].strip(".,:") not in VERBS or pronoun.search(first)
            ):
                wrong.append(f"{path}:{value.lineno}: {first}")
    assert wrong == []


def test_a_module_asks_the_question_that_it_answers() -> None:
    scripts = {"__main__.py", "install.py", *(path for path in code() if re.search(r"_ext/dlwhy_\w+\.py$", path))}
    wrong = []
    for path in code():
        text = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
        if path not in scripts and not path.endswith("__init__.py") and "?" not in text.splitlines()[0]:
            wrong.append(path)
    assert wrong == []


def test_a_class_name_is_of_one_class() -> None:
    names: Counter[str] = Counter()
    for path in code():
        names.update(
            n.name for n in ast.parse((ROOT / path).read_text(encoding="utf-8")).body if isinstance(n, ast.ClassDef)
        )
    assert [name for name, count in names.items() if count > 1 and not name.startswith("_")] == []


def test_what_glibc_changed_is_said_with_its_commit_or_bug() -> None:
    """A commit has 12 digits; in a paragraph that names a release of glibc there is one, or a bug's number."""
    version = re.compile(r"\b(?:[Ss]ince|[Uu]ntil|[Bb]efore)(?: glibc)? 2\.\d\d\b")
    source = re.compile(r"\b[0-9a-f]{12}\b|\b(?:bug|BZ) #?\d+")
    wrong = []
    for path in code():
        if path.startswith(("common/linux", "common/commands/dl", "common/render/library")):
            comments: list[Piece] = []
            for piece in pieces_of_code(path):
                if piece.kind == "C":
                    comments.append(piece)
                if piece.kind == "D":
                    wrong += [
                        piece.place
                        for paragraph in piece.text.split("\n\n")
                        if version.search(paragraph) and not source.search(paragraph)
                    ]
            for number, piece in enumerate(comments):
                near = " ".join(each.text for each in comments[max(0, number - 2) : number + 3])
                if version.search(piece.text) and not source.search(near):
                    wrong.append(piece.place)
    assert wrong == []
