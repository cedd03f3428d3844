"""Is a close predicted rightly while another one runs, and do the command's answers say what then happens?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dlwhy
import pytest
from dlwhy.tests.plan.graphs import RTLD_GLOBAL, RTLD_LAZY, RTLD_NODELETE, Opening, Shape, build_driver, build_graph
from dlwhy.tests.plan.sessions import Session, clean_environment, mapped_at
from dlwhy.tests.support.naming import names_of

ROOT = Path(dlwhy.__file__).parent

SHAPES = [
    Shape(0, needs=(1, 2), opens=(Opening(3, RTLD_LAZY),), closes=True),
    Shape(1, needs=(2,)),
    Shape(2),
    Shape(3, needs=(4,)),
    Shape(4),
    Shape(5, nodelete=True),
    Shape(6, lazy=(7,)),
    Shape(7),
]


def start(folder: Path, **environment: str) -> Session:
    """Start the driver with the libraries of this file."""
    build_driver(folder / "driver", None)
    build_graph(folder / "libraries", SHAPES)
    return Session(folder / "driver", folder / "libraries", {**clean_environment(), **environment})


def open_all(session: Session, *modes: tuple[int, int]) -> dict[int, int]:
    """Open libraries by number and mode; give their handles."""
    handles = {}
    for number, mode in modes:
        answer = session.tell(f"open {mode:x} {session.folder / SHAPES[number].name}")
        handles[number] = int(answer[0].split()[1], 16)
    return handles


def dlplan(session: Session, *words: str, status: int = 0) -> str:
    """Ask the shell's command."""
    done = subprocess.run(
        [sys.executable, str(ROOT), "--pid", str(session.pid), "dlplan", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def document(session: Session, *words: str, status: int = 0) -> Any:
    """Ask for JSON."""
    return json.loads(dlplan(session, *words, "--json", status=status))


def loaded(session: Session) -> list[int]:
    """List the numbers of the libraries that are mapped."""
    paths = {path for _, path in mapped_at(session.pid)}
    return [shape.number for shape in SHAPES if str(session.folder / shape.name) in paths]


def finalised(lines: Sequence[str]) -> list[str]:
    """Name what the destructors printed."""
    return [line.split()[1] for line in lines if line.startswith("fini ")]


def test_a_close_inside_a_close_is_deferred(tmp_path: Path) -> None:
    with start(tmp_path, HALT_IN_FINI="lib00.so") as session:
        handles = open_all(session, (0, RTLD_LAZY))
        before = document(session, "lib00.so")
        assert before["outcome"] == "unloads"
        assert names_of(before["unloads"]) == ["lib00.so", "lib01.so", "lib02.so"]
        assert before["may_unload_more"] == ["lib00.so"]
        session.send(f"close {handles[0]:x}\n")
        session.read_until("halted")
        during = document(session, "lib03.so", status=4)
        assert during["outcome"] == "deferred"
        assert names_of(during["unloads"]) == ["lib03.so", "lib04.so"]
        assert during["statics_after_reopen"] == "fresh"
        assert "is deferred: a dlclose is running" in " ".join(dlplan(session, "lib03.so", status=4).split())
        dying = document(session, "lib00.so", status=4)
        assert (dying["outcome"], dying["remedy"], dying["statics_after_reopen"]) == ("not-open", None, "fresh")
        text = " ".join(dlplan(session, "lib00.so", status=4).split())
        assert "lib00.so is unloaded when the dlclose that is running ends, unless a destructor opens it again." in text
        assert "Opening lib00.so after that maps it anew, with fresh statics." in text
        assert "stays" not in text
        session.send("x")
        lines = session.read_until(".")
        assert finalised(lines) == ["lib01.so", "lib02.so", "lib03.so", "lib04.so"]
        assert loaded(session) == []


def test_closes_are_counted_and_a_dead_handle_is_not_promised(tmp_path: Path) -> None:
    with start(tmp_path) as session:
        handle = open_all(session, (1, RTLD_LAZY), (1, RTLD_LAZY))[1]
        assert document(session, "lib01.so")["outcome"] == "keeps"
        assert document(session, "lib01.so")["remedy"]["steps"][0]["count"] == 1
        assert names_of(document(session, "lib01.so", "--closes", "2")["unloads"]) == ["lib01.so", "lib02.so"]
        assert document(session, "lib01.so", "--closes", "all")["close_count"] == 2
        assert document(session, f"{handle:#x}", "--closes", "all")["library"]["name"] == "lib01.so"
        text = dlplan(session, "lib01.so", "--closes", "5")
        assert "3 of these closes come too late" in text


def test_what_dlclose_says_of_a_library_that_is_not_open(tmp_path: Path) -> None:
    with start(tmp_path) as session:
        handles = open_all(session, (1, RTLD_LAZY), (5, RTLD_LAZY), (4, RTLD_LAZY | RTLD_NODELETE))
        answer = document(session, "lib02.so")
        assert answer["outcome"] == "not-open"
        assert answer["remedy"]["steps"][0]["action"] == "close"
        assert session.tell(f"close {int(answer['library']['link_map'], 16):x}") == ["returned -1"]
        for number, origin in ((5, "elf-flag"), (4, "dlopen-flag")):
            answer = document(session, SHAPES[number].name)
            assert answer["outcome"] == "no-effect"
            assert answer["remedy"]["blocker"]["holds"][0]["origin"] == origin
            session.tell(f"close {handles[number]:x}")
            assert document(session, SHAPES[number].name)["open_count"] == answer["open_count"]


def test_the_least_change_names_the_thread_and_is_enough(tmp_path: Path) -> None:
    with start(tmp_path) as session:
        from dlwhy.tests.plan.sessions import look

        handles = open_all(session, (6, RTLD_LAZY), (7, RTLD_LAZY | RTLD_GLOBAL), (3, RTLD_LAZY))
        view = look(session.target)
        image = view.examined.process.image(view.examined.process.graph.by_address[handles[6]])
        assert image is not None
        owe, call = image.find_symbol("lib_owe"), image.find_symbol("lib_call")
        assert owe is not None
        assert call is not None
        session.tell(f"owe {owe[0]:x} 2")
        session.tell(f"call {call[0]:x} 0")
        answer = document(session, "lib07.so")
        steps = [(step["action"], step["library"]) for step in answer["remedy"]["steps"]]
        assert steps == [("thread-exit", "lib06.so"), ("close", "lib06.so")]
        assert answer["remedy"]["steps"][0]["threads"][0]["tid"] != session.pid
        session.tell(f"close {handles[7]:x}")
        assert "then close lib06.so once" in " ".join(dlplan(session, "lib07.so").split())
        session.tell("exit 2")
        assert loaded(session) == [3, 4, 6, 7]
        session.tell(f"close {handles[6]:x}")
        assert loaded(session) == [3, 4]


def test_ranking(tmp_path: Path) -> None:
    with start(tmp_path) as session:
        open_all(session, (3, RTLD_LAZY), (1, RTLD_LAZY), (1, RTLD_LAZY), (7, RTLD_LAZY), (5, RTLD_LAZY))
        answer = document(session, "--all")
        ranks = [(each["library"]["name"], each["close_count"], len(each["unloads"])) for each in answer["plans"]]
        assert ranks == [("lib01.so", 2, 2), ("lib03.so", 1, 2), ("lib07.so", 1, 1), ("lib05.so", 1, 0)]
        once = document(session, "--all", "--closes", "1")
        assert [each["outcome"] for each in once["plans"]] == ["unloads", "unloads", "keeps", "no-effect"]
        text = dlplan(session, "--all")
        assert text.startswith("4 libraries are open; closing lib01.so frees the most: 2 libraries, ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name one library, or give --all"),
        (("lib01.so", "--all"), "name one library, or give --all"),
        (("lib01.so", "--closes", "0"), "--closes takes a number from 1 on, or 'all', not '0'"),
        (("lib01.so", "--closes", "many"), "--closes takes a number from 1 on, or 'all', not 'many'"),
        (("lib01.so", "--closes", ""), "--closes takes a number from 1 on, or 'all', not ''"),
        (("lib*",), "2 loaded libraries match"),
        (("libnone.so",), "no loaded library matches 'libnone.so'"),
    ],
)
def test_wrong_usage(words: Sequence[str], message: str, tmp_path: Path) -> None:
    with start(tmp_path) as session:
        open_all(session, (3, RTLD_LAZY))
        assert message in dlplan(session, *[word.replace("lib*", "lib0*") for word in words], status=2)
