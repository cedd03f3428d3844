"""Do several hosts say the same of one process or core, and what was expected?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dlwhy.tests.hosts.debuggers import HOSTS, Hosts, Reply, Subject
from dlwhy.tests.hosts.scenario import Fixture, Json, Run, check

ALL = "dlstate --json"


def text_of(document: Json, *, thread_names: bool = True) -> str:
    """Write a document without what may differ: the target, and where offsets came from; and no names on cores.

    A process whose loader is locked all the while cannot be told from one that works in it, without stopping it: the
    problem that says so is the shell's alone.
    """

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            if "tid" in value and not thread_names:
                return {**value, "name": None}
            return {key: strip(each) for key, each in value.items() if key not in ("target", "layout")}
        if isinstance(value, list):
            return [strip(each) for each in value]
        return value

    problems = list(document.get("problems", ()))
    kept = {**document, "problems": problems} if "problems" in document else document
    return json.dumps(strip(kept), indent=2)


def first_difference(one: str, other: str) -> str:
    """Show where two texts part."""
    for number, (left, right) in enumerate(zip(one.splitlines(), other.splitlines()), 1):
        if left != right:
            return f"line {number}: {left.strip()!r}, not {right.strip()!r}"
    return f"{len(one.splitlines())} lines, not {len(other.splitlines())}"


def compare(replies: dict[str, Reply], what: str, *, thread_names: bool = True) -> list[str]:
    """Compare each host's answer with the first one's."""
    found = []
    (first, reference), *others = replies.items()
    expected = text_of(reference.document, thread_names=thread_names)
    for host, reply in others:
        got = text_of(reply.document, thread_names=thread_names)
        if got != expected:
            found.append(f"{what}: {host} differs from {first}: {first_difference(got, expected)}")
    return found


def unexpected(
    replies: dict[str, Reply],
    fixture: Fixture,
    run: Run,
    stop: int,
    what: str,
    *,
    thread_names: bool,
    version: tuple[int, int] = (99, 0),
) -> list[str]:
    """Compare the answers of all hosts with what the fixture expects."""
    found = []
    for host, reply in replies.items():
        document = reply.document
        if "problems" in document:
            problems = document["problems"]
            document = {**document, "problems": problems}
        differences = check(fixture, run.name, stop, document, thread_names=thread_names, version=version)
        found += [f"{what}: {host}: {each}" for each in differences]
    return found


def ask_all(hosts: Hosts, subject: Subject, asked: Sequence[str] = HOSTS) -> dict[str, Reply]:
    """Ask hosts for the state of everything."""
    return {host: hosts.ask(host, subject, [ALL])[0] for host in asked}
