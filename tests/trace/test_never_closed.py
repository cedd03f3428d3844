"""Is the plugin blamed that opens itself and forgets it, and not the host whose opens and closes balance?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.typed import DEBUGGERS
from dlwhy.tests.trace.debugging import debug

HOST = """
#include <dlfcn.h>
int main(void)
{
    for (int i = 0; i < 3; i++) {
        void *handle = dlopen("./plug.so", RTLD_NOW);
        if (i == 0)
            ((void (*)(void))dlsym(handle, "keep"))();
        dlclose(handle);
    }
    return 0;
}
"""
PLUG = """
#include <dlfcn.h>
void *kept;
void keep(void) { kept = dlopen("./plug.so", RTLD_NOW); }
"""


@pytest.mark.parametrize("host", DEBUGGERS)
def test_a_plugin_that_opens_itself(host: str, tmp_path: Path) -> None:
    for name, text, options in (("host", HOST, []), ("plug.so", PLUG, ["-shared", "-fPIC"])):
        (tmp_path / f"{name}.c").write_text(text, encoding="ascii")
        words = ["gcc", "-g", *options, "-o", str(tmp_path / name), str(tmp_path / f"{name}.c"), "-ldl"]
        subprocess.run(words, check=True)
    go = "continue" if host == GDB else "process continue"
    result = debug(host, tmp_path, tmp_path / "host", ["dltrace start", go, "dltrace report"])
    (line,) = [line for line in result.output.splitlines() if line.startswith("Never closed")]
    assert line.startswith("Never closed: plug.so was opened once more than closed, by keep (plug.so.c:")
