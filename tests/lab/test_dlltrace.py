"""Does dlltrace in the real engine see every load and free, and does each free unload what was predicted?

The witnesses are the DLLs' own log of what their DllMains were told, and the words that the driver was given.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from dlwhy.tests.lab.asking import SCRIPT, ask_shell, document, type_at_prompt
from dlwhy.tests.lab.builds import compile_with_mingw
from dlwhy.tests.lab.graphs import DLLS, ROOT, Dll, build, random_dlls, random_script
from dlwhy.tests.lab.windows import Lab, windows_path
from dlwhy.tests.schema import VALIDATOR, validator_of
from dlwhy.tests.support.naming import names_of
from dlwhy.tests.synth.windows import process, write

Json = dict[str, Any]

EVENT = validator_of("dll_event")


def trace(lab: Lab, folder: Path, program: Path, words: Sequence[str]) -> tuple[Json, list[Json]]:
    """Run a program under dlltrace by pykd in a plain Python; give the report and the log."""
    (folder / "log.txt").unlink(missing_ok=True)
    command = " ".join([windows_path(program), *words])
    arguments = ["-o", command, "dlltrace", "start", "--go", "--json", "--log", "events.jsonl"]
    found = lab.run_python(SCRIPT, *arguments, folder=folder)
    report = document(found.output, found.errors)
    VALIDATOR.validate(report)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    for event in events:
        EVENT.validate(event)
    assert report["problems"] == [], report["problems"]
    assert report["end_reason"] == "the process has ended"
    return report, events


def short(names: Sequence[str]) -> list[str]:
    return [name.partition(".")[0] for name in names]


def check_closes(folder: Path, report: Json, events: Sequence[Json]) -> list[Json]:
    """Compare every free with what it did, by the log of the DllMains, and give the frees."""
    detached = [line.split()[0] for line in (folder / "log.txt").read_text().splitlines() if line.endswith("-")]
    closes = [event for event in events if event["event"] == "close"]
    for close in closes:
        assert close["predicted_but_kept"] == [], close
        assert close["unloaded_but_not_predicted"] == [], close
        assert close["predicted_exactly"] or close["may_unload_more"], close
    assert [name for close in closes for name in short(close["got_process_detach"])] == detached
    gone = Counter(name for close in closes for name in short(names_of(close["unloaded"])))
    assert gone == Counter(detached)
    assert report["closes_mispredicted"] == []
    assert report["totals"]["closes"] == len(closes)
    assert report["totals"]["end_not_seen"] == 0
    return closes


SCRIPT_OF_STORY = (
    "load a.dll load a.dll load b.dll free a.dll free b.dll free a.dll load x.dll free x.dll load nosuch.dll "
    "load keeper.dll free keeper.dll load loader.dll load c.dll free c.dll free loader.dll free c.dll "
    "load pinned.dll pin pinned.dll free pinned.dll load a.dll"
)


def test_the_story(lab: Lab, story: Path) -> None:
    report, events = trace(lab, story, story / "prog.exe", SCRIPT_OF_STORY.split())
    closes = check_closes(story, report, events)
    opens = [event for event in events if event["event"] == "open"]
    by_driver = [(each["requested"], each["result"]) for each in opens if each["within_event"] is None]
    words = SCRIPT_OF_STORY.split()
    assert [name for name, _ in by_driver] == [name for verb, name in zip(words[::2], words[1::2]) if verb == "load"]
    assert by_driver[:3] == [("a.dll", "loaded"), ("a.dll", "already-loaded"), ("b.dll", "already-loaded")]
    assert names_of(opens[0]["loaded"]) == ["a.dll", "b.dll", "c.dll"]
    assert [(each["load_count_before"], each["load_count_after"]) for each in opens[:3]] == [(None, 1), (1, 2), (1, 2)]
    assert [(each["load_count_before"], each["load_count_after"]) for each in closes[:3]] == [(2, 1), (2, 1), (1, None)]
    assert closes[2]["got_process_detach"] == ["a.dll", "b.dll", "c.dll"], "in reverse order of initialisation"
    assert {each["caller"]["library"] for each in (*opens, *closes)} == {"prog.exe", "keeper.dll", "loader.dll"}
    (failed,) = report["opens_failed"]
    assert (failed["requested"], failed["ntstatus"]) == ("nosuch.dll", "0xc0000135")
    (pin,) = report["pins"]
    assert (pin["library"]["name"], pin["caller"]["library"]) == ("pinned.dll", "prog.exe")
    inner = [each for each in closes if each["within_event"] is not None]
    assert [(each["library"]["name"], each["caller"]["library"]) for each in inner] == [("c.dll", "loader.dll")]
    last = closes[-1]
    assert (last["library"]["name"], last["predicted_outcome"], last["refusal"]) == (
        "pinned.dll",
        "no-effect",
        "pinned",
    )
    accounts = {each["name"]: each for each in report["library_totals"]}
    totals = {
        name: [sum(calls["count"] for calls in accounts[name][f"{what}_by_caller"]) for what in ("opens", "closes")]
        for name in ("a.dll", "b.dll", "keeper.dll")
    }
    assert totals == {"a.dll": [3, 2], "b.dll": [2, 1], "keeper.dll": [1, 1]}
    assert [accounts[name]["loadlibrary_count_now"] for name in totals] == [1, 1, 0]
    assert [accounts[name]["loaded_now"] for name in totals] == [True, True, False]
    assert accounts["pinned.dll"]["pinned_now"]
    assert accounts["pinned.dll"]["closes_without_effect"] == 1


def test_at_the_prompt(lab: Lab, story: Path) -> None:
    program = (
        f"{windows_path(story / 'prog.exe')} load keeper.dll free keeper.dll load a.dll wait load a.dll free a.dll"
    )
    code = "db ntdll!LdrLoadDll L10; db ntdll!LdrUnloadDll L10; db ntdll!LdrAddRefDll L10"
    typed = ["bp prog!at_wait", code, "!dlltrace report", "!dlltrace start", "!dlltrace start", "bl", "g"]
    typed += ["!dlltrace report", "!dlltrace report -v", "!dlltrace stop", "!dlltrace report", "bl", code, "g"]
    answers = type_at_prompt(lab, ("-o", program), typed, folder=story)
    _, before, early, started, again, listed, ran, report, detailed, stopped, after_stop, left, after, ended = answers
    assert "dlltrace: nothing has been traced" in early
    assert "Tracing all loads and frees" in started
    assert "dlltrace: a trace is going on" in again
    assert [line.split()[0] for line in listed.splitlines()] == ["0"], "only the user's own breakpoint"
    assert ran.endswith("Breakpoint 0 hit\n")
    assert report.startswith("3 loads (0 failed), 1 free: 1 unloaded 1 DLL, 0 did not unload the DLL.\n")
    last = " ".join(report.split()).partition("Never freed: ")[2]
    assert "b.dll was loaded once more than freed, by nearest export touch+" in last
    assert last.endswith(" in keeper.dll.")
    assert "going on" in report
    assert "over: stopped" in stopped
    assert len(detailed) > len(report)
    assert after_stop.partition("trace")[0] == stopped.partition("trace")[0]
    assert left == listed
    assert after == before, "the code of ntdll is as it was"
    assert "dlltrace" not in ended
    assert "Traceback" not in "".join(answers)


def test_the_transcript_of_the_page(lab: Lab, story: Path) -> None:
    """It is of this run, but for what depends on the time and the compiler; lines are left out where it says so."""
    page = (ROOT / "docs" / "windows.md").read_text(encoding="utf-8")
    written = page.partition("0:000> !dlltrace report\n")[2].partition("```")[0]
    program = f"{windows_path(story / 'prog.exe')} {SCRIPT_OF_STORY} wait"
    typed = ["bp prog!at_wait", "!dlltrace start", "g", "!dlltrace report"]
    report = type_at_prompt(lab, ("-o", program), typed, folder=story)[-1]
    parts = [re.escape(_plain(part)) for part in written.split("…\n")]
    assert re.fullmatch(".*".join(parts), _plain(report), re.DOTALL), report


def _plain(text: str) -> str:
    return re.sub(r"\+0x[0-9a-f]+", "+0x", re.sub(r"[0-9.]+ s$", "0 s", text.strip(), flags=re.MULTILINE))


def test_only_what_was_asked_for(lab: Lab, story: Path) -> None:
    program = f"{windows_path(story / 'prog.exe')} load keeper.dll load a.dll load x.dll free x.dll free a.dll wait"
    typed = ["bp prog!at_wait", "!dlltrace start x pinned*", "g", "!dlltrace stop --json"]
    *_, text = type_at_prompt(lab, ("-o", program), typed, folder=story)
    found = document(text)
    assert {each["name"] for each in found["library_totals"] if each["opens_by_caller"]} == {"x.dll"}
    assert (found["totals"]["opens"], found["totals"]["closes"]) == (1, 1)


def test_where_it_cannot_be(lab: Lab, tmp_path: Path) -> None:
    dump = write(tmp_path, process().dump())
    refused = ask_shell(dump, ["dlltrace", "start"])
    assert refused.returncode == 3
    assert refused.stderr.startswith("dlltrace: dlltrace needs WinDbg")
    (text,) = type_at_prompt(lab, ("-z", windows_path(dump)), ["!dlltrace start"])
    assert text.splitlines()[-1] == "dlltrace: a dump does not run: start a program or attach to a process"


def test_threads(lab: Lab, tmp_path: Path) -> None:
    dlls = (Dll("a", ("b", "c")), Dll("b", ("c",)), Dll("c"), Dll("d", ("b",)))
    build(tmp_path, dlls)
    program = compile_with_mingw(tmp_path / "racers.exe", [DLLS / "racers.c"])
    report, events = trace(lab, tmp_path, program, ["2", *(f"{dll.name}.dll" for dll in dlls)])
    # Under Wine the engine misses breakpoints where threads come at once: that may not become a wrong answer.
    assert report["closes_mispredicted"] == []
    assert {event["within_event"] for event in events} == {None}
    assert {event["event"] for event in events} == {"open", "close"}
    assert len({event["thread"]["tid"] for event in events}) > 1
    told = Counter(line.split()[1] for line in (tmp_path / "log.txt").read_text().splitlines())
    assert told["+"] == told["-"], "the process did what it does without a debugger"


def try_random_graphs(lab: Lab, folder: Path, seed: int, rounds: int) -> None:
    chooser = random.Random(seed)
    dlls = random_dlls(chooser, 10)
    build(folder, dlls)
    report, events = trace(lab, folder, folder / "prog.exe", random_script(chooser, dlls, rounds))
    assert check_closes(folder, report, events)


def test_random_graphs(lab: Lab, tmp_path: Path) -> None:
    try_random_graphs(lab, tmp_path, 7, 1)


@pytest.mark.matrix
@pytest.mark.parametrize("seed", range(200, 215))
def test_many_random_graphs(lab: Lab, tmp_path: Path, seed: int) -> None:
    try_random_graphs(lab, tmp_path, seed, 6)
