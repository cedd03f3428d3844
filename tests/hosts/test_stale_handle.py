"""Does the handle of a library that was closed still say which library it was?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.typed import DEBUGGERS
from dlwhy.tests.synth.process import compile_file
from dlwhy.tests.trace.debugging import debug

PROGRAM = """
#include <dlfcn.h>
#include <stdio.h>
void *handle;
int main(int count, char **words)
{
    handle = dlopen(words[1], RTLD_NOW);
    dlclose(handle);
    puts("closed");
    return count;
}
"""


@pytest.mark.parametrize("question", ["dlstate &handle", "dlplan handle"])
@pytest.mark.parametrize("host", DEBUGGERS)
def test_a_closed_handle_says_what_it_was(host: str, question: str, tmp_path: Path) -> None:
    program = compile_file(tmp_path, "closing", PROGRAM, "-ldl", language="c")
    library = compile_file(tmp_path, "libshort.so", "int nothing;", language="c")
    stop, go = ("break puts", "continue") if host == GDB else ("breakpoint set -n puts", "process continue")
    run = debug(host, tmp_path, program, [stop, go, question], str(library))
    (name,) = re.findall(r"was the handle of (.*), which has been unloaded since", run.output)
    # malloc may have written into the end of the name.
    assert name == library.name or name.startswith("a library whose name begins with libs"), name
