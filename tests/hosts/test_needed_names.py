"""Does a library that is loaded by another name than its file's contradict nothing in real processes?"""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dlwhy
import pytest
from dlwhy.common.model import Outcome
from dlwhy.tests.support.children import running, tell
from dlwhy.tests.synth.process import compile_file

OPENER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
int main(int count, char **words)
{
    char line[4096];
    int namespaces = count > 1, opened = 0;
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) && line[0] != '\n') {
        line[strcspn(line, "\n")] = 0;
        opened += (namespaces ? dlmopen(LM_ID_NEWLM, line, RTLD_LAZY) : dlopen(line, RTLD_LAZY)) != NULL;
    }
    printf("%d\n", opened);
    fflush(stdout);
    getchar();
    return 0;
}
"""
SYSTEM = Path("/usr/lib") / str(sysconfig.get_config_var("MULTIARCH"))


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_file(tmp_path_factory.mktemp("opener"), "opener", OPENER, language="c")


@contextmanager
def opened(opener: Path, paths: Sequence[Path], *words: str) -> Iterator[tuple[dlwhy.Examination, int]]:
    """Open libraries in one process; give it, and how many could be opened."""
    with running([opener, *words]) as process:
        answer = tell(process, "".join(f"{path}\n" for path in paths) + "\n")
        with dlwhy.open(process.pid) as examined:
            yield examined, int(answer)


def test_a_symbolic_link_and_a_namesake(opener: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("links", "real", "others", "filters")]
    links, real, others, filters = folders
    for folder in folders:
        folder.mkdir()
    shared = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o"]
    for path in (real / "libreal.so", others / "libheld.so", filters / "libfiltered.so"):
        subprocess.run([*shared, str(path)], input="int nothing;", text=True, check=True)
    (links / "libheld.so").symlink_to(real / "libreal.so")
    needed = ["-Wl,--no-as-needed", f"-Wl,-rpath,{links}:{filters}", f"-L{links}", "-x", "none", "-lheld"]
    user = tmp_path / "libuser.so"
    words = [*shared, str(user), *needed, "-Wl,-f,libfiltered.so"]
    subprocess.run(words, input="int use;", text=True, check=True)
    # The loader knows the file of the link by the name of the file.
    with opened(opener, [real / "libreal.so", user, others / "libheld.so"]) as (examined, number):
        assert number == 3
        (found,) = examined.plan("libheld.so").plans
        assert (found.outcome, [each.path for each in found.unloads]) == (Outcome.UNLOADS, [f"{others}/libheld.so"])
        assert examined.plan("libheld.so").problems == ()
        (found,) = examined.plan("libuser.so").plans
        assert sorted(each.name for each in found.unloads) == ["libfiltered.so", "libuser.so"]


@pytest.mark.parametrize("words", [(), ("namespaces",)], ids=["one namespace", "namespaces"])
def test_the_libraries_of_this_system(opener: Path, words: Sequence[str]) -> None:
    pattern, step = ("libstdc++.so*", 1) if words else ("lib*.so*", 20)
    paths = sorted(path for path in SYSTEM.glob(pattern) if path.is_file() and "san.so" not in path.name)
    with opened(opener, paths[::step], *words) as (examined, number):
        assert number > 1
        answer = examined.plan()
    assert [plan.library.name for plan in answer.plans if plan.outcome is Outcome.UNKNOWN] == []
    assert [each for each in answer.problems if "DT_NEEDED" in each.message] == []
