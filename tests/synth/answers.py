"""Which answers are there? One hold of every kind and origin, with made-up libraries around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from dlwhy.common.linux.model import CodeSymbol, Hold, HoldKind, Library, Root, State, TlsDestructor
from dlwhy.common.model import Evidence, LoaderInfo, Problem, Source, SourceKind, TargetInfo, ThreadRef

LINK_MAP = 0x55555556A2C0
BASE = 0x7FFFF7A00000
END = 0x7FFFF7A8E000
TABLE = Source(SourceKind.TABLE, "glibc 2.36 (Debian bookworm 2.36-9+deb12u14), by the build-id of ld.so")

FIELDS: dict[str, Optional[int]] = {
    "l_type": 2,
    "l_direct_opencount": 0,
    "l_nodelete_active": 0,
    "l_nodelete_pending": 0,
    "l_flags_1": 0,
    "l_tls_dtor_count": 0,
    "l_map_used": 1,
    "l_idx": -1,
    "l_relocated": 1,
    "l_init_called": 1,
    "l_global": 0,
    "l_removed": 0,
}


def evidence(*values: tuple[str, int]) -> tuple[Evidence, ...]:
    """Make evidence of members with their values."""
    return tuple(
        Evidence(LINK_MAP + 8 * index, f"((struct link_map *) {LINK_MAP:#x})->{name}", value, 8 * index, TABLE, name)
        for index, (name, value) in enumerate(values, 100)
    )


def destructor(
    number: int, name: Optional[str] = "progA", function: Optional[str] = "Tally::~Tally()"
) -> TlsDestructor:
    """Make a pending destructor of a thread."""
    code = CodeSymbol(BASE + 0x1139, function, "libB.so") if function else CodeSymbol(0, None, None)
    return TlsDestructor(ThreadRef(number, 4710 + number, name), code, 0x7FFFF7D8A6C8 + 0x1000 * number)


def nodelete(origin: str, symbols: Sequence[str] = (), omitted: int = 0, early: Optional[bool] = False) -> Hold:
    """Make a NODELETE hold."""
    member = "l_nodelete_pending" if origin == "pending" else "l_nodelete_active"
    return Hold(
        HoldKind.NODELETE,
        evidence((member, 1), ("l_direct_opencount", int(bool(early)))),
        origin=origin,
        symbols=tuple(symbols),
        symbols_omitted=omitted,
        dlclose_returns_early=None if origin == "pending" else early,
    )


def chain_hold(
    kind: HoldKind, chain: Sequence[str], kinds: Sequence[HoldKind], *, never_ends: bool = False, **more: Any
) -> Hold:
    """Make a dependency or a relocation."""
    member = "l_initfini" if kind is HoldKind.DEPENDENCY else "l_reldeps"
    root = Root(chain[0], tuple(kinds), never_ends=never_ends)
    return Hold(kind, evidence((member, 0x555555571000)), chain=tuple(chain), root=root, **more)


def opened(count: int, by: str = "user") -> Hold:
    """Make an open count."""
    return Hold(HoldKind.OPEN_COUNT, evidence(("l_direct_opencount", count)), origin=by, total=count)


def owed(*destructors: TlsDestructor, total: Optional[int] = None) -> Hold:
    """Make TLS destructors."""
    count = len(destructors) if total is None else total
    return Hold(
        HoldKind.TLS_DESTRUCTORS, evidence(("l_tls_dtor_count", count)), total=count, destructors=tuple(destructors)
    )


def startup(origin: str) -> Hold:
    """Make a start-up hold."""
    return Hold(HoldKind.STARTUP, evidence(("l_type", 1)), origin=origin)


#: One hold of every kind, and of every origin of a kind.
HOLDS: dict[str, Hold] = {
    "main-program": Hold(HoldKind.MAIN_PROGRAM, evidence(("l_type", 0))),
    "startup-needed": startup("needed"),
    "startup-preload": startup("preload"),
    "startup-vdso": startup("vdso"),
    "startup-rtld": startup("rtld"),
    "startup-proxy": startup("proxy"),
    "never-unloads": Hold(HoldKind.NEVER_UNLOADS),
    "audit": Hold(HoldKind.AUDIT, evidence(("l_auditing", 1), ("l_direct_opencount", 1))),
    "nodelete-elf-flag": nodelete("elf-flag"),
    "nodelete-unique-symbol": nodelete("unique-symbol", ["Registry<int>::instance", "counter()::count"], omitted=3),
    "nodelete-bound-by-startup": nodelete("bound-by-startup", ["plugin_hook"]),
    "nodelete-dlopen-flag": nodelete("dlopen-flag", early=True),
    "nodelete-pending": nodelete("pending"),
    "nodelete-unknown": nodelete("dlopen-flag-or-dlsym"),
    "half-loaded": Hold(HoldKind.HALF_LOADED, evidence(("l_relocated", 0))),
    "close-in-progress": Hold(HoldKind.CLOSE_IN_PROGRESS, evidence(("l_removed", 1), ("l_idx", 4))),
    "open-count": opened(1),
    "open-count-twice": opened(2),
    "open-count-libc": opened(1, "libc"),
    "tls-destructors": owed(destructor(2)),
    "tls-destructors-main-thread": owed(destructor(1), destructor(2)),
    "tls-destructors-lost": owed(destructor(2)._replace(thread=None), destructor(3)),
    "tls-destructors-partly-seen": owed(destructor(2), total=2),
    "tls-destructors-main-thread-partly-seen": owed(destructor(1), total=2),
    "tls-destructors-unseen": owed(total=2),
    "dependency": chain_hold(HoldKind.DEPENDENCY, ["libA.so", "libB.so"], [HoldKind.OPEN_COUNT]),
    "dependency-indirect": chain_hold(
        HoldKind.DEPENDENCY, ["libtop.so", "libA.so", "libB.so"], [HoldKind.TLS_DESTRUCTORS, HoldKind.OPEN_COUNT]
    ),
    "dependency-lost": chain_hold(
        HoldKind.DEPENDENCY, ["libA.so", "libB.so"], [HoldKind.TLS_DESTRUCTORS], never_ends=True
    ),
    "relocation": chain_hold(
        HoldKind.RELOCATION,
        ["libeager.so", "libB.so"],
        [HoldKind.NODELETE],
        symbols=("provided", "provided_value"),
        symbols_omitted=1,
    ),
    "relocation-unnamed": chain_hold(HoldKind.RELOCATION, ["main", "libB.so"], [HoldKind.MAIN_PROGRAM]),
}


def library(*holds: Hold, held: Optional[bool] = True, name: str = "libB.so", omitted: int = 0) -> Library:
    """Make a library with holds."""
    fields = dict(FIELDS)
    for hold in holds:
        for item in hold.evidence:
            member = item.expression.rpartition("->")[2]
            if member in fields:
                fields[member] = item.value
    return Library(
        name=name,
        path=f"/opt/app/{name}",
        soname=name,
        build_id="0123456789abcdef0123456789abcdef01234567",
        load_bias=BASE,
        start=BASE,
        end=END,
        namespace=0,
        link_map=LINK_MAP,
        fields=fields,
        held=held,
        holds=tuple(holds),
        holds_omitted=omitted,
        proxy=any(hold.origin == "proxy" for hold in holds),
    )


def state(*libraries: Library, asked: Optional[str] = None, problems: Sequence[Problem] = ()) -> State:
    """Make an answer."""
    return State(
        TargetInfo("core", "linux", "x86_64", 4711, "core file core.4711"),
        LoaderInfo("glibc", "2.36", TABLE),
        libraries,
        asked,
        tuple(problems),
    )
