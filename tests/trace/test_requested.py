"""Is an open told as the library that it returns, by whatever name it requests it?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.typed import DEBUGGERS
from dlwhy.tests.trace.debugging import debug

PROGRAM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
int main(void)
{
    const char *names[] = {"./libreal.so.1", "./other.so", "libreal.so.1", "./libreal.so.1.2", "$ORIGIN/other.so"};
    void *first = dlopen(names[0], RTLD_NOW);
    void *apart = dlmopen(LM_ID_NEWLM, names[1], RTLD_NOW);
    Lmid_t space = 0;
    dlinfo(apart, RTLD_DI_LMID, &space);
    int same = !!dlopen("", RTLD_NOW) + !!dlopen(NULL, RTLD_NOW) + !dlopen("./missing.so", RTLD_NOW);
    for (int i = 0; i < 5; i++)
        same += (dlopen(names[i], RTLD_NOW) == first) + (i == 4 || dlmopen(space, names[i], RTLD_NOW) == apart);
    printf("same %d", same);
    return 0;
}
"""


@pytest.mark.parametrize("host", DEBUGGERS)
def test_opens_by_path_symlink_soname_and_origin(host: str, tmp_path: Path) -> None:
    (tmp_path / "program.c").write_text(PROGRAM, encoding="ascii")
    (tmp_path / "empty.c").write_text("", encoding="ascii")
    library = ["-shared", "-Wl,-soname,libreal.so.1", "-o", "libreal.so.1.2", "empty.c"]
    for words in (library, ["-g", "-o", "program", "program.c", "-ldl"]):
        subprocess.run(["gcc", *words], cwd=tmp_path, check=True)
    for name in ("libreal.so.1", "other.so"):
        (tmp_path / name).symlink_to("libreal.so.1.2")
    go = "continue" if host == GDB else "process continue"
    result = debug(host, tmp_path, tmp_path / "program", ["dltrace start --log $LOG", go])
    assert "same 13" in result.output
    told = [(each["result"], (each["library"] or {}).get("name")) for each in result.events("open")]
    first, apart, program = (("already-loaded", name) for name in ("libreal.so.1", "other.so", "program"))
    begin = [("loaded", "libreal.so.1"), ("loaded", "other.so"), program, program, ("failed", None)]
    assert told == [*begin, *[first, apart] * 4, first]
