"""Is every verdict put into the words of the golden file, in at most 100 columns, with the remedy last?

DLWHY_UPDATE_GOLDEN=1 pytest tests/unit/test_views.py        writes the golden file anew; read its diff
"""

from __future__ import annotations

from typing import Any, Optional

import pytest
from dlwhy.common.commands.dlstate.text import state_view
from dlwhy.common.linux.model import Hold, HoldKind, Library, Root, State, StaticTls
from dlwhy.common.linux.rebuild_model import Fix, FixKind, Hiding, Obstacle, ObstacleKind, Rebuild
from dlwhy.common.model import LoaderInfo, Problem, Source, SourceKind
from dlwhy.common.render.text import MAX_WIDTH, render
from dlwhy.tests.synth.answers import HOLDS, chain_hold, destructor, library, nodelete, opened, owed, startup, state
from dlwhy.tests.unit.goldens import golden

DEP = HoldKind.DEPENDENCY
SAMPLES: dict[str, tuple[Library, bool]] = {}
UNIQUE = ("Registry<int>::instance", "counter()::count", "std::_Sp_make_shared_tag::_S_ti()::__tag")


def hide(number: int, *ways: Hiding, **more: Any) -> Fix:
    """Make the fix that hides so many symbols."""
    return Fix(FixKind.HIDE_SYMBOLS, "libB.so", UNIQUE[:number], ways=ways, **more)


def sample(
    name: str,
    *holds: Hold,
    held: Optional[bool] = True,
    omitted: int = 0,
    lib: str = "libB.so",
    rebuild: Optional[Rebuild] = None,
) -> None:
    """Add an answer in short and one with -v."""
    made = library(*holds, held=held, name=lib, omitted=omitted)._replace(rebuild=rebuild)
    SAMPLES[name] = (made, False)
    SAMPLES[f"{name} -v"] = (made, True)


for _name, _hold in HOLDS.items():
    sample(_name, _hold, held=None if _name == "half-loaded" else _name != "close-in-progress")
sample("garbage", held=False)
sample("unknown", held=None)
sample("held by what was not read", held=True)
sample("libgcc_s", opened(1, "libc"), lib="libgcc_s.so.1")
sample("libnss", opened(3, "libc"), lib="libnss_dns.so.2")
sample("libidn2", opened(1, "libc"), lib="libidn2.so.0")
sample("three reasons", opened(2), owed(destructor(2), destructor(3)), HOLDS["dependency"])
sample(
    "five reasons",
    opened(1),
    HOLDS["tls-destructors"],
    HOLDS["dependency"],
    HOLDS["dependency-indirect"],
    HOLDS["relocation"],
)
sample("half-loaded and open", HOLDS["half-loaded"], opened(1))
sample("pending and half-loaded", HOLDS["nodelete-pending"], HOLDS["half-loaded"], held=None)
sample("closed but owed", HOLDS["close-in-progress"], held=False)
sample("nodelete and opened", nodelete("unique-symbol", [f"Registry<int, {n}>::instance" for n in range(16)], 30, True))
sample("nodelete with a dependency", HOLDS["nodelete-elf-flag"], HOLDS["dependency"])
sample("many destructors", owed(*(destructor(n) for n in range(2, 14))))
sample("unnamed destructor", owed(destructor(2, None, None), total=2))
sample(
    "many holders", *(chain_hold(DEP, [f"lib{n}.so", "libB.so"], [HoldKind.OPEN_COUNT]) for n in range(16)), omitted=284
)
sample("held by a start-up library", chain_hold(DEP, ["libcore.so", "libB.so"], [HoldKind.STARTUP]))
sample("held by an audit library", chain_hold(DEP, ["libaudit.so", "libB.so"], [HoldKind.AUDIT]))
sample("held by an opened NODELETE library", chain_hold(DEP, ["libpinned.so", "libB.so"], [HoldKind.NODELETE]))
SCRIPT = Hiding.VERSION_SCRIPT
FIXES = {
    "own symbols": hide(2, SCRIPT, Hiding.NO_GNU_UNIQUE, Hiding.VISIBILITY, some_unique=True),
    "own symbols by attribute": hide(1, SCRIPT, Hiding.NO_GNU_UNIQUE, Hiding.ATTRIBUTE, some_unique=True),
    "symbols of std": hide(3, SCRIPT, Hiding.NO_GNU_UNIQUE, some_unique=True, std=True, symbols_omitted=4),
    "bound symbols": hide(1, SCRIPT, Hiding.VISIBILITY, bound_by=("libeager.so",)),
    "unique and bound symbols": hide(3, SCRIPT, bound_by=("libeager.so", "libstdc++.so.6"), some_unique=True, std=True),
    "its flag": Fix(FixKind.LINK_WITHOUT_NODELETE, "libB.so"),
    "RTLD_NODELETE": Fix(FixKind.OPEN_WITHOUT_NODELETE, "libB.so"),
    "RTLD_GLOBAL": Fix(FixKind.OPEN_LOCALLY, "libB.so", symbols=("plugin_hook",), bound_by=("main",)),
    "RTLD_GLOBAL and dlsym": Fix(FixKind.OPEN_LOCALLY, "libB.so", bound_by=("main",)),
    "RTLD_NODELETE or dlsym": Fix(FixKind.OPEN_LOCALLY_WITHOUT_NODELETE, "libB.so"),
}
for _name, _fix in FIXES.items():
    sample(f"rebuild: {_name}", HOLDS["nodelete-elf-flag"], rebuild=Rebuild((_fix,)))
sample(
    "rebuild: two, then closes",
    HOLDS["nodelete-elf-flag"],
    HOLDS["tls-destructors"],
    HOLDS["dependency"],
    HOLDS["relocation"],
    rebuild=Rebuild((FIXES["own symbols"], FIXES["its flag"])),
)
for _kind in ObstacleKind:
    sample(f"obstacle: {_kind.value}", HOLDS["dependency"], rebuild=Rebuild((), Obstacle(_kind, "libA.so")))
sample(
    "obstacle: itself", HOLDS["nodelete-elf-flag"], rebuild=Rebuild((), Obstacle(ObstacleKind.ON_PURPOSE, "libB.so"))
)


def text_of(answer: State, verbose: bool) -> str:
    return render(state_view(answer, verbose))


def written() -> str:
    """Write every sample, and the table of them all."""
    parts = [f"==== {name}\n{text_of(state(lib, asked=lib.name), verbose)}" for name, (lib, verbose) in SAMPLES.items()]
    every = [
        lib._replace(name=f"lib{number:02}.so") for number, (lib, verbose) in enumerate(SAMPLES.values()) if not verbose
    ]
    problems = [
        Problem(
            "libB.so",
            "l_tls_dtor_count is 2, but 1 pending destructor was found in 3 threads: " + "a thread was not seen " * 4,
        ),
        Problem("loader", "thread 4711 is inside dlopen or dlclose: the state is in motion"),
    ]
    parts.append(f"==== all\n{text_of(state(*every, problems=problems), verbose=False)}")
    parts.append(f"==== all -v\n{text_of(state(*every[:2], problems=problems), verbose=True)}")
    parts.append(f"==== pattern\n{text_of(state(*every[3:6], asked='lib0*'), verbose=False)}")
    for size, free, held, lost in (
        (1664, 1664, (), 0),
        (1664, 1464, (("plug.so", 200),), 0),
        (1664, 1264, (("plug.so", 200),), 200),
        (1664, 1000, (("plug.so", 200),), 464),
        (1664, 64, tuple((f"lib{number:02}.so", 8 * number) for number in range(1, 16)), 640),
        (1664, 0, (), 1664),
    ):
        left = state(*every[:1])._replace(static_tls=StaticTls(size, free, held, lost))
        parts.append(f"==== static TLS: {free} free, {lost} lost\n{text_of(left, verbose=False)}")
    parts.append(f"==== none\n{text_of(state(), verbose=False)}")
    musl = state(*every[:2])._replace(loader=LoaderInfo("musl", None))
    parts.append(f"==== musl -v\n{text_of(musl, verbose=True)}")
    return "\n".join(parts)


def test_golden() -> None:
    text = written()
    expected = golden("views", text).split("\n==== ")
    found = text.split("\n==== ")
    assert [part.partition("\n")[0] for part in found] == [part.partition("\n")[0] for part in expected]
    for now, before in zip(found, expected):
        assert now == before


def too_long(text: str) -> list[str]:
    """List the lines that are too long, but for those with symbols and chains of library names."""
    exempt = ("TLS destructor", "unique symbol", "bound symbol", "  symbol")
    return [
        line
        for line in text.splitlines()
        if len(line) > MAX_WIDTH and "→" not in line and not line.strip().startswith(exempt)
    ]


@pytest.mark.parametrize("name", [name for name in SAMPLES if not name.endswith("-v")])
def test_no_line_is_too_long(name: str) -> None:
    lib, _ = SAMPLES[name]
    assert too_long(text_of(state(lib, asked=lib.name), verbose=False)) == []


def test_no_line_is_too_long_with_evidence() -> None:
    texts = [text_of(state(lib, asked=lib.name), verbose) for lib, verbose in SAMPLES.values() if verbose]
    assert sorted({line for text in texts for line in too_long(text)}) == []


def test_no_line_of_the_table_is_too_long() -> None:
    long_names = [lib._replace(name="libabcdefghijklm.so.1") for lib, _ in SAMPLES.values()]
    text = text_of(state(*long_names), verbose=False)
    assert len(text.splitlines()) > len(long_names)
    assert sorted(set(too_long(text))) == []


@pytest.mark.parametrize("kind", list(SourceKind))
def test_where_offsets_came_from_fits_on_a_line(kind: SourceKind) -> None:
    detail = {
        SourceKind.DEBUG_INFO: "ld.so, build-id 7ebc65e52f2bbea498b4040fa92f7238377aaba9",
        SourceKind.INFERRED: "glibc 2.36 (Debian bookworm 2.36-9+deb12u14), by trying every known layout",
    }.get(kind, "glibc 2.36 (Debian bookworm 2.36-9+deb12u14), by the build-id of ld.so")
    answer = state(library(opened(1)), asked="libB.so")
    loader = answer.loader._replace(layout=Source(kind, detail))
    text = text_of(answer._replace(loader=loader), verbose=True)
    assert detail in " ".join(text.split())
    assert [line for line in too_long(text) if "link_map" not in line] == []


@pytest.mark.parametrize("name", [name for name in SAMPLES if not name.endswith("-v")])
def test_the_answer_is_first_and_the_remedy_last(name: str) -> None:
    lib, _ = SAMPLES[name]
    lines = text_of(state(lib, asked=lib.name), verbose=False).splitlines()
    assert lines[0].startswith(f"{lib.name}")
    assert not lines[-1].startswith(" ")
    assert lines[-1].endswith(".")
    assert len([line for line in lines if (lib.path or "?") in line]) == 1, "the path stands there once"
    if lib.held is False and HOLDS["close-in-progress"] not in lib.holds:
        assert "can go" in lines[0]
    if lib.held and lib.holds:
        assert "stays" in lines[0]


def test_the_remedy_counts_what_must_happen() -> None:
    lib = library(opened(2), owed(destructor(3), destructor(2), destructor(3)), HOLDS["dependency"])
    last = " ".join(text_of(state(lib, asked="libB.so"), verbose=False).split())
    assert "2 times more" in last
    assert "threads 2 and 3 have exited" in last
    assert "dlclose has closed libA.so" in last


def test_only_owed_libraries_need_the_collector_told() -> None:
    only_owed = text_of(state(library(owed(destructor(2))), asked="libB.so"), verbose=False)
    assert "another dlclose in namespace 0 has run the collector" in " ".join(only_owed.split())
    also_open = text_of(state(library(opened(1), owed(destructor(2))), asked="libB.so"), verbose=False)
    assert "collector" not in also_open


def test_a_root_that_only_owes_needs_a_collector_run() -> None:
    held = chain_hold(DEP, ["libA.so", "libB.so"], [HoldKind.TLS_DESTRUCTORS])
    text = " ".join(text_of(state(library(held), asked="libB.so"), verbose=False).split())
    assert "no thread owes libA.so a TLS destructor" in text
    assert "collector" in text


def test_a_name_as_long_as_it_likes_is_never_cut() -> None:
    name = "std::map<std::string, " + "std::vector<int>, " * 20 + "std::less<int>>"
    lib = library(nodelete("unique-symbol", [name]))
    text = text_of(state(lib, asked="libB.so"), verbose=False)
    assert name in text.replace("\n", " ")


@pytest.mark.parametrize("verbose", [False, True])
def test_escape_codes_never_get_through(verbose: bool) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202e\udcff\u2028"
    holds = (
        nodelete("unique-symbol", [evil]),
        owed(destructor(1, evil, evil)),
        chain_hold(DEP, [evil, "libB.so"], [HoldKind.OPEN_COUNT]),
        startup("needed"),
    )
    lib = library(*holds, name=evil)._replace(path=evil, soname=evil)
    for answer in (state(lib, asked=evil), state(lib), state(lib, lib, asked=evil, problems=[Problem(evil, evil)])):
        text = text_of(answer, verbose)
        assert [c for c in text if not c.isprintable() and c != "\n"] == []
        assert "owned" in text
        assert not any(line.startswith("31m") for line in text.splitlines())


def test_a_root_of_libcs_own_opening() -> None:
    hold = chain_hold(DEP, ["libnss_dns.so.2", "libB.so"], [HoldKind.OPEN_COUNT])
    by_libc = hold._replace(root=Root("libnss_dns.so.2", (HoldKind.OPEN_COUNT,), "libc"))
    texts = [text_of(state(library(each), asked="libB.so"), verbose=False) for each in (hold, by_libc)]
    assert texts[0] != texts[1]
    assert "dlclose has closed" in texts[0]
    assert "dlclose has closed" not in texts[1]


def test_of_thousands_of_threads_the_first_are_named() -> None:
    hold = owed(*(destructor(number) for number in range(2, 5002)))
    text = render(state_view(state(library(hold), asked="libB.so"), verbose=False))
    assert "once threads 2, 3, 4, 5, 6, 7, 8, 9 and 4992 more have exited" in " ".join(text.split())
    assert len(text) < 2000
