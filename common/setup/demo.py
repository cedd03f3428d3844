"""What does dlwhy say about a small program whose libraries stay loaded?"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Optional

from .changes import Changes
from .folders import ROOT
from .gdb import ENTRY_SCRIPT, Gdb, python_of, require_gdb
from .pip import prepare_dependencies
from .programs import run_or_fail
from .report import say
from .rust import find_rustc

DEMO_PACKAGES = {"gdb": "gdb", "g++": "g++", "libc6-dev": None}
STORY_FOLDER = ROOT / "tests" / "fixtures" / "story"
STORY = """\
The story: progA opens libA, which needs libB, lets a thread work with it, and closes libA again.
libA goes; libB does not. With STORY_LOG=1 in the environment libA stays as well. Why?
"""


def demo(changes: Changes) -> int:
    """Build a program whose libraries stay loaded, and show what dlwhy says about it in gdb."""
    gdb = require_gdb(changes, DEMO_PACKAGES)
    if gdb is not None:
        prepare_dependencies(changes, python_of(gdb))
    rustc = find_rustc()
    if rustc is None:
        say("there is no rustc that works here: libA is written in C++ instead of Rust")
    with tempfile.TemporaryDirectory(prefix="dlwhy-demo-") as folder:
        for command in story_build(Path(folder), rustc):
            source = next(Path(word).name for word in command if word.startswith(str(STORY_FOLDER)))
            changes.make(f"build {Path(command[-1]).name} from {source}", run_or_fail, command, command[0])
        if gdb is None or changes.dry_run:
            say("would run gdb twice on progA and show what it says")
            return 0
        say(f"\n{STORY}")
        plain = show_story(gdb, Path(folder), ["dlstate", "dlstate libB.so"])
        logged = show_story(gdb, Path(folder), ["dlstate libA.so"], "STORY_LOG=1")
    return plain or logged


def story_build(folder: Path, rustc: Optional[str]) -> list[list[str]]:
    """List the commands that build the story; the last argument of each is the file that it creates."""
    shared = ["g++", "-g", "-shared", "-fPIC", "-Wl,-rpath,$ORIGIN", f"-L{folder}"]
    liba = [*shared, str(STORY_FOLDER / "liba.cpp"), "-lB"]
    if rustc is not None:
        liba = [rustc, "-g", "--crate-type=cdylib", f"-Lnative={folder}", "-lB"]
        liba += ["-Clink-arg=-Wl,-rpath,$ORIGIN", str(STORY_FOLDER / "liba.rs")]
    program = ["g++", "-g", "-pthread", "-Wl,-rpath,$ORIGIN", str(STORY_FOLDER / "progA.cpp"), "-ldl"]
    return [
        [*shared, str(STORY_FOLDER / "libb.cpp"), "-o", str(folder / "libB.so")],
        [*liba, "-o", str(folder / "libA.so")],
        [*program, "-o", str(folder / "progA")],
    ]


def show_story(gdb: Gdb, folder: Path, questions: list[str], setting: str = "") -> int:
    """Stop progA after dlclose(libA), ask the questions in gdb, print the answers and return gdb's status."""
    command = [gdb.path, "-nx", "-batch", "-ex", f"source {ENTRY_SCRIPT}"]
    if setting:
        command += ["-ex", f"set environment {setting}"]
    command += ["-ex", "set disable-randomization off", "-ex", "break stop_here if number == 2", "-ex", "run"]
    for question in questions:
        command += ["-ex", rf"echo \n(gdb) {question}\n", "-ex", question]
    done = subprocess.run(
        [*command, str(folder / "progA")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
    )
    before, prompt, answers = done.stdout.decode(errors="replace").partition("(gdb) ")
    say(f"progA{' with ' + setting if setting else ''}, stopped after dlclose(libA):\n")
    say(prompt + answers if prompt else before)
    return done.returncode
