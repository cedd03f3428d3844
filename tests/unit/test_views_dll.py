"""Is every answer about DLLs put into the words of the golden file, in at most 100 columns?

DLWHY_UPDATE_GOLDEN=1 pytest tests/unit/test_views_dll.py        writes the golden file anew; read its diff
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dlwhy.common.commands.dllgone.text import dll_gone_view
from dlwhy.common.commands.dllplan.text import dll_plan_view
from dlwhy.common.commands.dllstate.text import dll_state_view
from dlwhy.common.errors import NotFoundError
from dlwhy.common.model import TargetInfo
from dlwhy.common.render.text import MAX_WIDTH, render
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.gone import find_gone
from dlwhy.common.windows.plan import plan_free
from dlwhy.common.windows.state import explain_dlls, select_dlls
from dlwhy.tests.synth.minidump import WIN7, WIN10, WIN81, WINE, XP, Loader, Module, Process, Unloaded
from dlwhy.tests.synth.windows import process, story, write
from dlwhy.tests.unit.goldens import golden

TARGET = TargetInfo("dump", "windows", "x86_64", 4711, "minidump prog.dmp")


def number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError as error:
        raise NotFoundError(text) from error


def nodeless() -> Process:
    """Leave the nodes out, as small dumps do."""
    made = process(WIN10)
    for module in made.loader.loaded:
        made.memory.forget(module.node, 0x50)
    return made


def troubled() -> Process:
    """Have a DLL that is being unloaded, an over-freed one, a shim's, and a replaced file."""
    loader = story(WIN10)
    loader.known["libb.dll"].state, loader.known["libb.dll"].count = -1, 0
    loader.known["libc.dll"].count = 2
    loader.known["pinned.dll"].flags = 0x100
    made = Process(loader)
    loader.known["liba.dll"].timestamp += 1
    return made


def gone() -> Process:
    """Have pointers into what was unloaded."""
    loader = story(WIN10)
    loader.ring = [*loader.ring, Unloaded("before.dll", loader.known["liba.dll"].base)]  # type: ignore[misc]
    made = Process(loader)
    made.registers["ip"] = 0x5000_0000 + 0x10000 * 19 + 0x42
    made.memory.number(made.stack_base - 0x800, 8, 0x5000_0000 + 0x10000 * 18 + 4)
    return made


def fan() -> Process:
    """Import one DLL by many."""
    loader = Loader(WIN10)
    loader.define(*(Module(f"user{n:02}.dll", ["low.dll"]) for n in range(20)), Module("low.dll"))
    loader.start(Module("prog.exe", ["KERNEL32.DLL"]))
    for n in range(20):
        loader.load(f"user{n:02}.dll")
    return Process(loader)


def samples(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each sample by name."""
    forms: dict[str, Process] = {form.name: process(form, form is not XP) for form in (XP, WIN7, WIN81, WIN10, WINE)}
    forms["wow64"] = Process(story(WIN10, True), story(WIN10, False))
    forms.update(nodeless=nodeless(), troubled=troubled(), fan=fan())
    for name, made in forms.items():
        target = MinidumpTarget(str(write(folder, made.dump(unloaded=()), f"{name}.dmp")))
        state = explain_dlls(target)._replace(target=TARGET)
        for verbose in (False, True) if name in ("win10", "win7") else (False,):
            mark = " -v" if verbose else ""
            yield f"{name}{mark}", render(dll_state_view(state, verbose))
        if name == "wow64":
            continue
        every = ("prog", "ntdll", "ucrt", "libA", "libB", "libC", "cx", "pindep")
        wanted = {"fan": ("low", "user03"), "win8.1": (), "troubled": ("libA", "libB", "libC")}.get(name, every)
        for dll in wanted:
            chosen = state._replace(dlls=select_dlls(state.dlls, dll + (".exe" if dll == "prog" else ""), number))
            for verbose in (False, True) if name == "win10" else (False,):
                mark = " -v" if verbose else ""
                yield f"{name}: dllstate {dll}{mark}", render(dll_state_view(chosen._replace(asked=dll), verbose))
            for frees in (1, None) if dll in ("libA", "libC", "cx", "low") else (1,):
                text = dll + (".exe" if dll == "prog" else "")
                plans = plan_free(target, text, number, frees)._replace(target=TARGET)
                mark = "" if frees else " --frees all"
                yield f"{name}: dllplan {dll}{mark}", render(dll_plan_view(plans, verbose=False))
    made = gone()
    target = MinidumpTarget(str(write(folder, made.dump(unloaded=[Unloaded("streamed.dll", 0x6100_0000)]))))
    lib = made.loader.known["liba.dll"]
    for address in (None, 0x5013_0042, lib.base + 4, lib.base + 0x6000, 0x1):
        answer = find_gone(target, address)._replace(target=TARGET)
        yield f"dllgone {address and hex(address)}", render(dll_gone_view(answer, verbose=False))


def written(folder: Path) -> str:
    """Write every sample."""
    return "\n".join(f"==== {name}\n{text}" for name, text in samples(folder))


def test_golden(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert text == golden("views_dll", text)


def test_at_most_100_columns(tmp_path: Path) -> None:
    for line in written(tmp_path).splitlines():
        assert len(line) <= MAX_WIDTH or "->" in line or "→" in line, line
