"""Is it told whose load it is that keeps a DLL, by the real engine and by its dump, and does the remedy unload it?"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from dlwhy.tests.lab.asking import ask_shell, comparable, document, type_at_prompt
from dlwhy.tests.lab.builds import compile_with_mingw, compile_with_pdb
from dlwhy.tests.lab.windows import Lab, windows_path

SOURCE = Path(__file__).resolve().parent / "fixtures" / "held.c"
KERNEL32 = "/usr/x86_64-w64-mingw32/lib/libkernel32.a"


class Case(NamedTuple):
    """A mode of the host, the DLL that stays, whose its load is, and a part of the remedy."""

    mode: str
    name: str
    kind: str
    remedy: str


CASES = (
    Case("thread", "plug.dll", "thread", "frees it by FreeLibraryAndExitThread"),
    Case("com", "server.dll", "com", "CoFreeUnusedLibraries frees it once its DllCanUnloadNow returns S_OK"),
    Case("delay", "plain.dll", "delay-load", '__FUnloadDelayLoadedDLL2("plain.dll") in user.dll frees it'),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the host and the DLLs; lld makes what delay-loads and, beside plain.dll, the import library for it."""
    made = tmp_path_factory.mktemp("held")
    compile_with_mingw(made / "plug.dll", [SOURCE], ["-DTHREAD"])
    compile_with_mingw(made / "server.dll", [SOURCE], ["-DSERVER"])
    compile_with_mingw(made / "host.exe", [SOURCE], ["-lole32", "-luuid"])
    for name, options in {
        "plain": (),
        "user": (str(made / "plain.lib"), KERNEL32, "/delayload:plain.dll"),
    }.items():
        macro = "TARGET" if name == "plain" else "DELAY"
        source = made / f"{name}.c"
        source.write_text(f"#define {macro}\n{SOURCE.read_text()}")
        compile_with_pdb(made / f"{name}.dll", source, "start", ["/dll", *options])
    return made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.mode)
def test_the_holder_and_its_remedy(lab: Lab, folder: Path, case: Case) -> None:
    dump = folder / f"{case.mode}.dmp"
    program = f"{windows_path(folder / 'host.exe')} {case.mode}"
    asked = f"!dllstate {case.name}"
    typed = ["g", f"{asked} --json", asked, f".dump /ma /o {windows_path(dump)}"]
    _, written, text, _ = type_at_prompt(lab, ("-o", program), typed, folder=folder)
    live, dumped = (document(each) for each in (written, ask_shell(dump, ["dllstate", case.name, "--json"]).stdout))
    assert comparable(live) == comparable(dumped)
    (library,) = live["libraries"]
    (hold,) = library["holds"]
    assert (hold["count"], [each["kind"] for each in hold["holders"]]) == (1, [case.kind])
    assert case.remedy in " ".join(text.split())
    assert "It goes once FreeLibrary" not in text
    # Without a debugger the host goes on, and does what the remedy says.
    assert lab.run(folder / "host.exe", case.mode, folder=folder).status == 0


def test_an_extension_module_of_python(lab: Lab, tmp_path: Path) -> None:
    code = "import _queue, ctypes; ctypes.windll.kernel32.DebugBreak()"
    program = f'{windows_path(lab.python / "python.exe")} -c "{code}"'
    _, written, text = type_at_prompt(
        lab, ("-o", program), ["g", "!dllstate _queue.pyd --json", "!dllstate _queue.pyd"], folder=tmp_path
    )
    (hold,) = document(written)["libraries"][0]["holds"]
    (holder,) = hold["holders"]
    assert (holder["kind"], holder["runtime"], holder["library"]) == ("interpreter", "python", "python39.dll")
    assert "Python never frees one, so that it goes when the process ends" in " ".join(text.split())
