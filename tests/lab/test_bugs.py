"""Is a bug of ours one line in WinDbg's engine too, and does a trace survive one in the handler of a breakpoint?"""

from __future__ import annotations

from pathlib import Path

from dlwhy.tests.lab.asking import SCRIPT, document
from dlwhy.tests.lab.windows import Lab, Outcome, windows_path
from dlwhy.tests.synth.windows import process, write

# Run by the Windows Python: it registers the package as our script does, breaks a method, and runs the script.
BREAKING = """
import importlib, importlib.util, os, runpy, sys
script, module, owner, name, calls = sys.argv[1:6]
root = os.path.dirname(os.path.dirname(script))
path = os.path.join(root, "__init__.py")
spec = importlib.util.spec_from_file_location("dlwhy", path, submodule_search_locations=[root])
sys.modules["dlwhy"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["dlwhy"])
holder = importlib.import_module(module)
holder = getattr(holder, owner) if owner else holder
whole, seen = getattr(holder, name), []
def broken(*arguments, **options):
    seen.append(name)
    if len(seen) in eval(calls):
        raise TypeError("two\\nlines")
    return whole(*arguments, **options)
setattr(holder, name, broken)
sys.argv[:6] = [script]
runpy.run_path(script, run_name="__main__")
"""
BUG = "a bug in dlwhy: TypeError: two lines ("
TRACER = ("dlwhy.common.windows.trace.tracer", "DllTracer")
TRACKER = ("dlwhy.common.windows.trace.tracker", "DllCallTracker")


def run_broken(lab: Lab, folder: Path, broken: tuple[str, ...], *words: str) -> Outcome:
    """Run our script in a plain Python with pykd, and a method broken."""
    wrapper = folder / "breaking.py"
    wrapper.write_text(BREAKING)
    return lab.run_python(windows_path(wrapper), SCRIPT, *broken, *words, folder=folder)


def test_a_bug_is_one_line(lab: Lab, tmp_path: Path) -> None:
    dump = windows_path(write(tmp_path, process().dump()))
    broken = ("dlwhy.common.commands.dllgone.command", "", "process_id", "range(9)")
    found = run_broken(lab, tmp_path, broken, "-z", dump, "dllgone")
    assert (found.output, found.status) == ("", 70)
    assert found.errors.startswith(f"dllgone: {BUG}common\\commands\\")
    assert found.errors.count("\n") == 1
    assert "please report it" in found.errors


def test_events_that_are_not_understood(lab: Lab, story: Path) -> None:
    words = ["load", "a.dll", "load", "a.dll", "free", "a.dll", "free", "a.dll"]
    command = " ".join([windows_path(story / "prog.exe"), *words])
    start = ("-o", command, "dlltrace", "start", "--go", "--json", "--log", "events.jsonl")
    for name in ((*TRACER, "_begin_load"), (*TRACER, "_note_module"), (*TRACKER, "finish")):
        found = run_broken(lab, story, (*name, "(2,)"), *start)
        report = document(found.output, found.errors)
        assert found.status == 4
        (problem,) = report["problems"]
        assert problem["message"].startswith(f"{BUG}common\\windows\\trace\\tracer.py:")
        assert ": the event was not understood, and what was going on then is not known" in problem["message"]
        assert report["closes_mispredicted"] == [], name
        assert report["end_reason"] == "the process has ended"
        assert report["totals"]["opens"] + report["totals"]["closes"] in (3, 4)
