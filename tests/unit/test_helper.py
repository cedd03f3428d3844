"""Does code that sees a target's bytes cost no more than its answer if it loops, prints, crashes or eats memory?"""

from __future__ import annotations

import _socket
import ctypes
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dlwhy
import pytest
from dlwhy.common import helper as module
from dlwhy.common.helper import MAX_REPLY, MEMORY_BYTES, Helper

SECONDS = 0.2
PATIENCE = 60.0


@pytest.fixture
def helper() -> Iterator[Helper]:
    made = Helper()
    yield made
    made.close()


# -- what runs in the child --------------------------------------------------------------------------------------------


def upper(item: bytes, _: int) -> bytes:
    return item.upper()


def pid(_: bytes, __: int) -> bytes:
    return str(os.getpid()).encode()


def loop(item: bytes, _: int) -> bytes:
    while item == b"evil":
        pass
    return item


def sleep(_: bytes, __: int) -> bytes:
    time.sleep(1000)
    return b""


def fail(_: bytes, __: int) -> bytes:
    raise AttributeError("module 'readline' has no attribute 'set_completer'")


def crash(_: bytes, __: int) -> bytes:
    return ctypes.string_at(1)


def eat(_: bytes, __: int) -> bytes:
    return bytes(2 * MEMORY_BYTES)[:1]


HOARD: list[bytes] = []
PIECE = MEMORY_BYTES // 16


def hoard(item: bytes, _: int) -> bytes:
    HOARD.append(bytes(PIECE))
    return item


def tangle(item: bytes, _: int) -> bytes:
    ring: list[object] = [bytes(PIECE)]
    ring.append(ring)
    for _ in range(1000):  # so much makes the collector look
        ring.append([ring])
    return item


def fill(_: bytes, __: int) -> bytes:
    return bytes(MAX_REPLY + 1)


def shout(_: bytes, __: int) -> bytes:
    print("printed", flush=True)
    sys.stderr.write("an error\n")
    sys.stderr.flush()
    os.write(1, b"written")
    os.write(2, b"written too")
    return b"said"


def look(_: bytes, __: int) -> bytes:
    descriptors = [number for number in range(256) if is_open(number)]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handler = signal.getsignal(signal.SIGUSR1)
    limits = Path("/proc/self/limits").read_text(encoding="ascii")
    core = next(line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core"))
    return repr((descriptors, set(mask), handler is signal.SIG_DFL, core, os.getcwd(), os.getsid(0))).encode()


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def read(_: bytes, descriptor: int) -> bytes:
    return os.pread(descriptor, 100, 0)


def write(item: bytes, _: int) -> bytes:
    Path(os.fsdecode(item)).write_bytes(b"content")
    return b"done"


# -- the tests ---------------------------------------------------------------------------------------------------------


def test_answers_in_their_order_from_one_child(helper: Helper) -> None:
    items = [f"item {number}".encode() for number in range(1000)]
    assert helper.ask(upper, items, SECONDS) == [item.upper() for item in items]
    first, second = helper.ask(pid, [b""], SECONDS), helper.ask(pid, [b""], SECONDS)
    assert first == second != [str(os.getpid()).encode()]
    assert helper.ask(upper, [], SECONDS) == []
    assert helper.missing == 0


def test_what_raises_has_an_empty_answer(helper: Helper) -> None:
    assert helper.ask(fail, [b"a", b"b"], SECONDS) == [b"", b""]
    assert helper.ask(lambda item, _: item, [b"not to be found by its name"], SECONDS) == [b""]
    assert helper.missing == 0


@pytest.mark.parametrize("task", [loop, crash, eat, fill])
def test_what_costs_too_much_has_none(helper: Helper, task: module.Task) -> None:
    began = time.monotonic()
    assert helper.ask(task, [b"evil"], SECONDS) == [None]
    assert helper.ask(upper, [b"next"], SECONDS) == [b"NEXT"]
    assert helper.missing == 1
    assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize("task", [hoard, tangle])
def test_what_earlier_calls_have_left_behind_costs_no_answer(helper: Helper, task: module.Task) -> None:
    for number in range(60):
        item = f"item {number}".encode()
        assert helper.ask(task, [item], 2.0) == [item]
        helper.renew()


def test_what_takes_too_much_takes_no_other_with_it(helper: Helper) -> None:
    assert helper.ask(upper, [b"used"], SECONDS) == [b"USED"]
    assert helper.ask(eat, [b"evil"], SECONDS) == [None]
    assert helper.missing == 1


def test_only_the_item_at_fault_is_lost(helper: Helper) -> None:
    assert helper.ask(loop, [b"a", b"evil", b"b"], SECONDS) == [b"a", None, b"b"]


def test_what_waits_for_ever_is_ended_by_the_clock(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CLOCK_SLACK", 0.1)
    assert helper.ask(sleep, [b""], SECONDS) == [None]
    assert helper.ask(upper, [b"next"], SECONDS) == [b"NEXT"]


def test_an_answer_is_bounded_as_a_whole(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 4 * SECONDS)
    helper.renew()
    began = time.process_time(), time.monotonic()
    assert helper.ask(loop, [b"evil"] * 10_000, SECONDS) == [None] * 10_000
    assert helper.missing == 10_000
    assert time.monotonic() - began[1] < PATIENCE
    assert helper.ask(upper, [b"refused"], SECONDS) == [None]
    helper.renew()
    assert helper.ask(upper, [b"again"], SECONDS) == [b"AGAIN"]
    assert helper.missing == 0


def test_a_long_answer_gets_time_back(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", SECONDS)
    helper.renew()
    assert helper.ask(loop, [b"evil"], SECONDS) == [None]
    assert helper.ask(upper, [b"refused"], SECONDS) == [None]
    time.sleep(2.1 * SECONDS / module.REFILL)
    assert helper.ask(upper, [b"later"], SECONDS) == [b"LATER"]


def test_nothing_is_printed(helper: Helper, capfd: pytest.CaptureFixture[str]) -> None:
    assert helper.ask(shout, [b""], SECONDS) == [b"said"]
    helper.close()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_child_has_nothing_of_ours(helper: Helper) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    ours = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(ours, True)
    try:
        (found,) = helper.ask(look, [b""], SECONDS)
    finally:
        os.close(ours)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        signal.signal(signal.SIGUSR1, before)
    assert found is not None
    descriptors, mask, is_default, core, folder, session = eval(found)
    assert (descriptors, mask, is_default, core, folder) == ([0, 1, 2, 3], set(), True, ["0", "0"], "/")
    assert session != os.getsid(0)


def test_without_proc(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PROC", "/nonexistent")
    (found,) = helper.ask(look, [b""], SECONDS)
    assert eval(found or b"")[0] == [0, 1, 2, 3]
    assert helper.ask(eat, [b""], SECONDS) in ([None], [b"\0"])


def test_it_is_no_child_of_ours_and_ends_with_us(helper: Helper) -> None:
    (reply,) = helper.ask(pid, [b""], SECONDS)
    child = int(reply or b"0")
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)
    helper.close()
    wait_for_end(child)


def wait_for_end(child: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{child}/status").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_that_was_ended_is_replaced(helper: Helper) -> None:
    (reply,) = helper.ask(pid, [b""], SECONDS)
    os.kill(int(reply or b"0"), signal.SIGKILL)
    wait_for_end(int(reply or b"0"))
    assert helper.ask(upper, [b"next"], SECONDS) == [b"NEXT"]
    assert helper.missing == 0


def test_a_file_is_handed_over_and_taken_back(helper: Helper, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    for _ in range(20):
        with path.open("rb") as stream:
            assert helper.ask(read, [b"", b""], SECONDS, stream.fileno()) == [b"content", b"content"]
    assert helper.ask(look, [b""], SECONDS)[0] is not None
    descriptors = eval(helper.ask(look, [b""], SECONDS)[0] or b"")[0]
    assert descriptors == [0, 1, 2, 3]


def test_it_writes_no_file(helper: Helper, tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert helper.ask(write, [os.fsencode(path)], SECONDS) == [b""]
    assert not path.exists() or path.read_bytes() == b""


def test_a_fork_of_ours_has_its_own(helper: Helper) -> None:
    assert helper.ask(upper, [b"a"], SECONDS) == [b"A"]
    child = os.fork()
    if child == 0:
        os._exit(0 if helper.ask(upper, [b"b"], SECONDS) == [b"B"] else 1)
    assert helper.ask(upper, [b"c"] * 100, SECONDS) == [b"C"] * 100
    assert os.waitpid(child, 0)[1] == 0


def test_threads_ask_one_after_the_other(helper: Helper) -> None:
    wrong: list[object] = []

    def ask(number: int) -> None:
        for _ in range(20):
            item = f"thread {number}".encode()
            if helper.ask(upper, [item], 1.0) != [item.upper()]:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_interrupt_leaves_no_half_answer(helper: Helper) -> None:
    helper.ask(pid, [b""], SECONDS)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        helper.ask(sleep, [b""], 1.0)
    timer.join()
    assert helper.ask(upper, [b"next"], SECONDS) == [b"NEXT"]


REPLY = struct.Struct("<Id")


@pytest.mark.parametrize(
    "forged",
    [
        b"",
        b"\0",
        REPLY.pack(0, 0.0),
        REPLY.pack(0xFFFFFFFF, 0.0),
        REPLY.pack(5, float("nan")) + struct.pack("<i", 1) + b"a",
        REPLY.pack(5, 0.0) + struct.pack("<i", 2) + b"a",
        REPLY.pack(5, 0.0) + struct.pack("<i", -2) + b"a",
        REPLY.pack(10, 0.0) + (struct.pack("<i", 1) + b"a") * 2,
        REPLY.pack(3, 0.0) + b"abc",
        REPLY.pack(1 << 20, 0.0) + bytes(1 << 20),
    ],
)
def test_a_reply_is_not_trusted(helper: Helper, forged: bytes) -> None:
    here, there = _socket.socketpair()
    helper._channel = here
    there.sendall(forged[: 1 << 17])
    there.shutdown(_socket.SHUT_WR)
    assert helper.ask(upper, [b"a"], SECONDS) == [None]
    there.close()
    assert helper.ask(upper, [b"a"], SECONDS) == [b"A"]


def test_time_that_the_child_claims_is_not_negative(helper: Helper) -> None:
    here, there = _socket.socketpair()
    helper._channel = here
    there.sendall(REPLY.pack(5, -1000.0) + struct.pack("<i", 1) + b"a")
    assert helper.ask(upper, [b"a"], SECONDS) == [None]
    there.close()


def test_without_a_second_process_nothing_is_known(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(module, "_fork", refuse)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert helper.ask(upper, [b"a"], SECONDS) == [None]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def test_its_end_is_seen_at_once_by_who_reads() -> None:
    """A pipe of ours that the child kept open would let its reader wait."""
    root = Path(dlwhy.__file__).parent
    script = (
        "import sys, types; package = types.ModuleType('dlwhy'); package.__path__ = [sys.argv[1]]; "
        "sys.modules['dlwhy'] = package; from dlwhy.common.linux.elf.demangle import demangle; "
        "print(demangle('_ZN5TallyD1Ev')); print(demangle('_ZcvDOsrdtDO'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout == "Tally::~Tally()\n_ZcvDOsrdtDO\n"
    assert done.stderr == ""
