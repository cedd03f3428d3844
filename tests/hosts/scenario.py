"""What does a fixture build, how is it run, and what does it expect at each stop?

A fixture is one source file, or one folder, in tests/fixtures. Its comments say, one directive per comment:

    build OUTPUT [from SOURCE][: LIBRARY|FLAG|cc=COMPILER ...]   OUTPUT is defined as the macro BUILD_<stem>
    copy OUTPUT COPY                                    in the build folder
    run [NAME]: [VARIABLE=VALUE ...]                    $BUILD is the build folder; without one: a plain run
    starti @N                                           stop N is the very first instruction
    only system: REASON                                 not for other glibcs
    expect[(RUN,...)][>=VERSION|<VERSION] @N,... LIBRARY[NAMESPACE]: STATE [KIND [DETAIL=VALUE ...] [+ KIND ...]]
    expect @N says: REGEX                               in the error message of `dlstate`, which answers nothing else
    expect @N problem: REGEX                            one of the answer's problems; without this there must be none

STATE: held, garbage ("held": false), unknown ("held": null), gone (not listed), any. KIND: the holds in their
order; a "*" among them stands for any others. Details: list values are separated by "|" and must all be there
(`symbols`, `functions`, `variables`; `symbols=` is an empty list) or be exactly those (`threads`); alternatives of a
scalar or of a `chain` (a->b->c) are separated by "|"; `root` is one of the kinds of hold at the chain's root. A
detail that begins with "l_" is one of the library's fields. A library is named by its basename or by the end of its
path, "main" is the program.
"""

from __future__ import annotations

import codecs
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Optional

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
SUFFIXES = {".c", ".cpp", ".rs"}
STATES = {"held": True, "garbage": False, "unknown": None}
COMMENT = re.compile(r"/\*(?P<block>.*?)\*/|//(?P<line>[^\n]*(?:\n\s*// {2,}[^\n]*)*)", re.DOTALL)
DIRECTIVE = re.compile(r"(build|copy|run|starti|only|expect)\b(.*)", re.DOTALL)
EXPECT = re.compile(r"(?:\((?P<runs>[^)]*)\))?(?P<when>[<>]=?[0-9.]+)?\s+@(?P<stops>[0-9,]+)\s+(?P<rest>.*)", re.DOTALL)

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Build:
    """One compiler run; output and libraries are relative to the build folder."""

    output: str
    source: Path
    tokens: tuple[str, ...] = ()

    @property
    def macro(self) -> str:
        return "BUILD_" + Path(self.output).stem


@dataclass(frozen=True)
class Run:
    """One way to start the program."""

    name: str = "plain"
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Hold:
    """One expected reason; kind "*" stands for any others."""

    kind: str
    details: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return " ".join([self.kind, *(f"{key}={value}" for key, value in self.details)])


@dataclass(frozen=True)
class Expectation:
    """What is expected of one library at one or several stops."""

    where: str
    stops: tuple[int, ...]
    library: str = ""
    namespace: int = 0
    state: str = "any"
    holds: tuple[Hold, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    says: str = ""
    problem: str = ""
    runs: tuple[str, ...] = ()
    when: str = ""

    def applies(self, run: str, stop: int, version: tuple[int, int]) -> bool:
        """Whether this is expected at that stop, in that run, of that glibc."""
        if stop not in self.stops or (self.runs and run not in self.runs):
            return False
        match = re.fullmatch(r"(<|>=)(\d+)\.(\d+)", self.when)
        if match is None:
            return True
        limit = (int(match[2]), int(match[3]))
        return version < limit if match[1] == "<" else version >= limit

    def __str__(self) -> str:
        words = [
            self.state,
            " + ".join(map(str, self.holds)),
            *(f"{key}={value}" for key, value in self.fields),
        ]
        return " ".join(filter(None, words))


@dataclass(frozen=True)
class Fixture:
    """Everything that the comments of a fixture say."""

    name: str
    builds: tuple[Build, ...]
    copies: tuple[tuple[str, str], ...] = ()
    runs: tuple[Run, ...] = ()
    starti: Optional[int] = None
    only_system: str = ""
    expectations: tuple[Expectation, ...] = field(default=(), repr=False)

    @property
    def program(self) -> str:
        return self.builds[-1].output

    @property
    def stops(self) -> tuple[int, ...]:
        """The stops that something is expected of."""
        return tuple(sorted({stop for each in self.expectations for stop in each.stops}))

    def expected(self, run: str, stop: int, version: tuple[int, int] = (99, 0)) -> list[Expectation]:
        """List what is expected at that stop."""
        return [each for each in self.expectations if each.applies(run, stop, version)]


def directives(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line number, word and rest of every directive in the comments of a source file."""
    text = path.read_text(encoding="utf-8")
    for match in COMMENT.finditer(text):
        comment = match["block"] or re.sub(r"\n\s*//", " ", match["line"] or "")
        found = DIRECTIVE.match(comment.strip())
        if found is not None:
            yield text.count("\n", 0, match.start()) + 1, found[1], " ".join(found[2].split("\n")).strip()


def split(text: str) -> list[str]:
    """Split at spaces as a shell does, and decode escapes like those of a C string."""
    return [codecs.decode(word, "unicode_escape") if "\\" in word else word for word in shlex.split(text)]


def parse_build(folder: Path, source: Path, text: str) -> Build:
    """Parse what follows the word build."""
    head, _, tail = text.partition(": ")
    words = head.rstrip(":").split()
    if len(words) == 3 and words[1] == "from":
        source = folder / words[2]
    elif len(words) != 1:
        raise ValueError(f"build {text}")
    return Build(words[0], source, tuple(tail.split()))


def parse_run(text: str) -> Run:
    """Parse what follows the word run."""
    name, _, assignments = text.partition(":")
    pairs = [word.partition("=") for word in split(assignments)]
    return Run(name.strip() or "plain", tuple((key, value) for key, _, value in pairs))


def parse_expectation(where: str, text: str) -> Expectation:
    """Parse what follows the word expect."""
    match = EXPECT.fullmatch(text)
    if match is None:
        raise ValueError(f"{where}: expect{text}")
    runs = tuple(filter(None, (match["runs"] or "").split(",")))
    stops = tuple(int(stop) for stop in match["stops"].split(","))
    when, rest = match["when"] or "", match["rest"].strip()
    if rest.startswith("says:"):
        return Expectation(where, stops, says=rest.partition(":")[2].strip(), runs=runs, when=when)
    if rest.startswith("problem:"):
        return Expectation(where, stops, problem=rest.partition(":")[2].strip(), runs=runs, when=when)
    library, state, *words = split(rest)
    if not library.endswith(":") or (state not in STATES and state not in ("gone", "any")):
        raise ValueError(f"{where}: expect{text}")
    name = re.fullmatch(r"(.*?)(?:\[(\d+)\])?:", library, re.DOTALL)
    assert name is not None
    holds: list[Hold] = []
    fields: list[tuple[str, str]] = []
    begin = True
    for word in words:
        key, equals, value = word.partition("=")
        if word == "+":
            begin = True
        elif begin and not (equals and key.startswith("l_")):
            holds.append(Hold(word))
            begin = False
        elif equals and key.startswith("l_"):
            fields.append((key, value))
        elif equals and holds:
            holds[-1] = Hold(holds[-1].kind, (*holds[-1].details, (key, value)))
        else:
            raise ValueError(f"{where}: {word!r} in expect{text}")
    return Expectation(
        where,
        stops,
        name[1],
        int(name[2] or 0),
        state,
        tuple(holds),
        tuple(fields),
        runs=runs,
        when=when,
    )


def load(path: Path) -> Optional[Fixture]:
    """Read one fixture: a source file or a folder of them; None when it builds nothing."""
    folder = path if path.is_dir() else path.parent
    sources = sorted(path.iterdir()) if path.is_dir() else [path]
    builds: list[Build] = []
    copies: list[tuple[str, str]] = []
    runs: list[Run] = []
    expectations: list[Expectation] = []
    starti: Optional[int] = None
    only_system = ""
    for source in sources:
        for line, word, text in directives(source):
            where = f"tests/fixtures/{source.relative_to(FIXTURES).as_posix()}:{line}"
            if word == "build":
                builds.append(parse_build(folder, source, text))
            elif word == "copy":
                original, copy = split(text)
                copies.append((original, copy))
            elif word == "run":
                runs.append(parse_run(text))
            elif word == "starti":
                starti = int(text.lstrip("@"))
            elif word == "only":
                only_system = text
            else:
                expectations.append(parse_expectation(where, text if text[:1] in "(<>" else " " + text))
    if not builds:
        return None
    return Fixture(
        path.stem,
        tuple(builds),
        tuple(copies),
        tuple(runs) or (Run(),),
        starti,
        only_system,
        tuple(expectations),
    )


@cache
def fixtures() -> Mapping[str, Fixture]:
    """Read all fixtures, by name."""
    paths = [path for path in sorted(FIXTURES.iterdir()) if path.is_dir() or path.suffix in SUFFIXES]
    loaded = [fixture for fixture in map(load, paths) if fixture is not None]
    return {fixture.name: fixture for fixture in loaded}


def scenarios() -> list[tuple[str, str]]:
    """Name every run of every fixture."""
    return [(fixture.name, run.name) for fixture in fixtures().values() for run in fixture.runs]


def is_named(library: Json, selector: str) -> bool:
    """Whether a library has that basename or a path that ends so."""
    return library["name"] == selector or f"/{library['path']}".endswith(f"/{selector}")


def find(document: Json, fixture: Fixture, expected: Expectation) -> list[Json]:
    """Find the libraries that an expectation speaks of."""
    selector = Path(fixture.program).name if expected.library == "main" else expected.library
    return [
        library
        for library in document["libraries"]
        if library["namespace"] == expected.namespace and is_named(library, selector)
    ]


def describe(library: Json) -> str:
    """Write a library of the document in the words of the expectations."""
    state = {True: "held", False: "garbage", None: "unknown"}[library["held"]]
    holds = []
    for hold in library["holds"]:
        shown = {key: value for key, value in hold.items() if key not in ("kind", "evidence")}
        holds.append(" ".join([hold["kind"], *(f"{key}={value}" for key, value in shown.items())]))
    return " ".join(filter(None, [state, " + ".join(holds)]))


def same_scalar(expected: str, got: object) -> bool:
    """Compare a value of the grammar, which may list alternatives, with one of the document."""
    truth = {"true": "1", "false": "0"}
    text = str(got).lower()
    return truth.get(text, text) in [truth.get(each.lower(), each.lower()) for each in expected.split("|")]


def mismatch(hold: Json, key: str, expected: str, thread_names: bool) -> bool:
    """Whether one detail of a hold is not as expected."""
    if key == "chain":
        return " -> ".join(hold["chain"]) not in [each.replace("->", " -> ") for each in expected.split("|")]
    if key == "root":
        return expected not in hold["root"]["kinds"]
    if key == "symbols":
        wanted = set(filter(None, expected.split("|")))
        return not wanted <= set(hold["symbols"]) or (not wanted and bool(hold["symbols"]))
    if key == "functions":
        names = {destructor["function"]["name"] for destructor in hold["destructors"]}
        return not set(expected.split("|")) <= names
    if key == "variables":
        return not set(expected.split("|")) <= {destructor["variable"] for destructor in hold["destructors"]}
    if key == "threads":
        threads = {destructor["thread"]["name"] for destructor in hold["destructors"]}
        return thread_names and threads != set(expected.split("|"))
    return not same_scalar(expected, hold.get(key, "(absent)"))


def match_holds(expected: tuple[Hold, ...], got: list[Json], thread_names: bool) -> bool:
    """Whether the holds are those expected, in their order."""
    if any(hold.kind == "*" for hold in expected):
        kinds = iter(got)
        pairs = []
        for hold in expected:
            if hold.kind == "*":
                continue
            found = next((each for each in kinds if each["kind"] == hold.kind), None)
            if found is None:
                return False
            pairs.append((hold, found))
    else:
        if [hold.kind for hold in expected] != [each["kind"] for each in got]:
            return False
        pairs = list(zip(expected, got))
    return not any(mismatch(each, key, value, thread_names) for hold, each in pairs for key, value in hold.details)


def check_expectation(fixture: Fixture, document: Json, expected: Expectation, thread_names: bool) -> str:
    """Say what is wrong with one library, or nothing."""
    libraries = find(document, fixture, expected)
    if expected.state == "gone":
        return f"still listed: {describe(libraries[0])}" if libraries else ""
    if len(libraries) != 1:
        return "not listed" if not libraries else f"listed {len(libraries)} times"
    library = libraries[0]
    got = describe(library)
    if expected.state != "any" and library["held"] is not STATES[expected.state]:
        return got
    if not match_holds(expected.holds, library["holds"], thread_names):
        return got
    for key, value in expected.fields:
        if not same_scalar(value, library["fields"].get(key, "(absent)")):
            return f"{key}={library['fields'].get(key, '(absent)')} in {got}"
    return ""


def check_problems(fixture: Fixture, run: str, stop: int, document: Json, version: tuple[int, int]) -> list[str]:
    """Say which problem of an answer is missing or not expected."""
    if "error" in document:
        return []
    wanted = [each for each in fixture.expected(run, stop, version) if each.problem]
    messages = [problem["message"] for problem in document["problems"]]
    failures = [
        f"{each.where}: {fixture.name} ({run}) stop {stop}: expected a problem /{each.problem}/ in {messages}"
        for each in wanted
        if not any(re.search(each.problem, message) for message in messages)
    ]
    for message in messages:
        if not any(re.search(each.problem, message) for each in wanted):
            failures.append(f"{fixture.name} ({run}) stop {stop}: a problem that nobody expects: {message}")
    return failures


def check(
    fixture: Fixture,
    run: str,
    stop: int,
    document: Json,
    *,
    version: tuple[int, int] = (99, 0),
    thread_names: bool = True,
) -> list[str]:
    """Compare the answer at one stop with the fixture's comments; one readable line per difference."""
    failures = check_problems(fixture, run, stop, document, version)
    for expected in fixture.expected(run, stop, version):
        if expected.problem:
            continue
        if expected.says:
            said = document.get("error", "an answer")
            if not re.search(expected.says, said):
                failures.append(
                    f"{expected.where}: {fixture.name} ({run}) stop {stop}: expected /{expected.says}/ in {said!r}"
                )
            continue
        got = document["error"] if "error" in document else check_expectation(fixture, document, expected, thread_names)
        if got:
            name = expected.library + (f"[{expected.namespace}]" if expected.namespace else "")
            failures.append(
                f"{expected.where}: {fixture.name} ({run}) stop {stop}, {name!r}:\n"
                f"    expected: {expected}\n    got:      {got}"
            )
    return failures
