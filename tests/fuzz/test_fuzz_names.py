"""Does a name, whatever bytes it has, come out as text that can be shown and JSON that any parser takes, and back?

Paths of libraries, names of threads, C++ and Rust symbols, and names of DLLs and files of Windows go the whole way,
from the memory of a target to what a command writes.
"""

from __future__ import annotations

import functools
import json
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

import pytest
from dlwhy.common.charset import decode
from dlwhy.common.commands.registry import find_command
from dlwhy.common.commands.run import run
from dlwhy.common.errors import DlwhyError
from dlwhy.common.helper import shared_helper
from dlwhy.common.model import Thread
from dlwhy.common.render.dml import to_dml
from dlwhy.common.render.text import escape
from dlwhy.common.windows.dumps.kdump import KernelDump
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.tests.fakes import X86_64, FakeHost, FakeTarget
from dlwhy.tests.fuzz.examples import examples
from dlwhy.tests.fuzz.mangled import MANGLED_PARTS
from dlwhy.tests.support.undo import UNDO
from dlwhy.tests.synth.glibc import IMAGE_SIZE, Library, Process
from dlwhy.tests.synth.glibc_layouts import V239
from dlwhy.tests.synth.minidump import WIN7, WIN10, Form
from dlwhy.tests.synth.ntlayout import windows
from dlwhy.tests.synth.ntmachines import build
from dlwhy.tests.synth.windows import process
from hypothesis import example, given
from hypothesis import strategies as st

LIMIT_SECONDS = 10.0

#: Where the names are put, and the one that the process was built with for a function.
PATHS, SYMBOL = 0x0666_0000_0000, "_Z" + "x" * 200

# Escape codes, bytes that are no UTF-8, halves of surrogate pairs, what could be undone wrongly, what means something.
PIECES = [
    *(b"\x1b[31m", b"\x1b]0;owned\x07", b"\r", b"\n", b"\t", b"\x7f", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xae"),
    *(b"\xff", b"\xc3", b"\x80", b"\xed\xa0\xbd", b"\xed\xb2\x80", b"\xf0\x9f\x98\x80", b"\xc3\xbc", b"\xef\xbf\xbf"),
    *(b"\\", b"\\x41", b"\\x5c", b"\\u0041", b"\\ud800", b"\\xff", b"%s", b"'", b'"', b"<b>", b"&amp;", b" ", b"  "),
    *(b"/", b"..", b"lib", b".so", b"libc.so.6", b"ld-2.so", b"linux-vdso.so.1", b"libpthread", b"(deleted)", b"@@"),
]
RAW = st.lists(
    st.sampled_from(PIECES) | st.binary(max_size=6) | st.text(max_size=4).map(lambda text: text.encode()), max_size=8
).map(lambda pieces: b"".join(pieces).replace(b"\0", b""))
CXX = st.lists(MANGLED_PARTS, max_size=40).map(lambda parts: ("_Z" + "".join(parts)).encode())
RUST = st.lists(MANGLED_PARTS, max_size=40).map(lambda parts: ("_R" + "".join(parts)).encode())
SYMBOLS = CXX | RUST | RAW | RAW.map(lambda raw: b"_ZN%d%sE" % (len(raw), raw))


class Target(FakeTarget):
    """A process of glibc that was never run: its names are where the test puts them."""

    def __init__(self) -> None:
        libraries = [
            Library("main", type=0),
            Library("libc.so.6", type=1, tls_size=0x90),
            Library("ld.so", type=1),
            Library("libopen.so", opencount=1, needs=["libdep.so"]),
            Library("libdep.so"),
            Library("libunique.so", nodelete=True),
            Library("libowed.so", owed=1, symbols={SYMBOL: (0x1100, 0x20)}),
        ]
        made = Process(
            X86_64,
            V239,
            libraries,
            rtld_global_size=2888,
            version=(2, 41),
            exports_descriptors=True,
            mangles=True,
            unique=[("name", "libunique.so")],
        )
        whole = made.target()
        auxv = whole.auxv()
        super().__init__(dict(whole._segments), auxv=auxv, threads={4711: made.tls})
        self.maps = made.maps
        rtld_global = made.bases["ld.so"] + 0x2000
        (self._unique,) = struct.unpack("<Q", self.read(rtld_global + V239.unique_entries, 8))
        image = made.bases["libowed.so"]
        self._function = image + self.read(image, IMAGE_SIZE).index(SYMBOL.encode())
        self._thread = ""

    def threads(self) -> Sequence[Thread]:
        """List the thread."""
        return [Thread(1, 4711, self._thread)]

    def rename(self, paths: Sequence[bytes], unique: bytes, function: bytes, thread: bytes) -> None:
        """Give the libraries, a unique symbol, a function and the thread other names."""
        self.heal()
        self._thread = decode(thread)
        texts = bytearray()
        for name, path in zip(("libopen.so", "libdep.so", "libunique.so", "libowed.so"), paths):
            self.overwrite(self.maps[name] + 8, struct.pack("<Q", PATHS + len(texts)))
            texts += path + b"\0"
        self.overwrite(self._unique + 8, struct.pack("<Q", PATHS + len(texts)))
        self.overwrite(PATHS, bytes(texts + unique).ljust(1 << 14, b"\0"))
        self.overwrite(self._function, function[: len(SYMBOL)] + b"\0")


@functools.cache
def target() -> Target:
    """Return the process, made once."""
    return Target()


def ask(of: Union[FakeTarget, MinidumpTarget, KernelDump], *words: str) -> str:
    """Run a command; what it writes must be fit to be shown, or any parser's."""
    host = FakeHost(of)  # type: ignore[arg-type]
    command = find_command(words[0])
    assert command is not None
    failure = ""
    try:
        run(host, command, words[1:])
    except DlwhyError as error:
        failure = escape(str(error))
    text = host.written + failure
    text.encode("utf-8", "strict")
    if words[-1] == "--json" and not failure:
        assert text.isascii()
        check_strict(json.loads(text))
    else:
        assert all(character == "\n" or character.isprintable() for character in text)
        assert all(character == "\n" or character.isprintable() for character in to_dml(text, "!dllstate"))
    return text


def check_strict(value: Any) -> None:
    """Check that every string of a document is Unicode, and that what it stands for is written so again."""
    if isinstance(value, str):
        value.encode("utf-8", "strict")
        UNDO(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_strict(key)
            check_strict(item)
    elif isinstance(value, list):
        for item in value:
            check_strict(item)


@examples(100)
@example(paths=[b"", b"", b"", b"linux-vdso.so.1"], unique=b"_Z", function=b"_Z", thread=b"")
@given(paths=st.lists(RAW, min_size=4, max_size=4), unique=SYMBOLS, function=SYMBOLS, thread=RAW)
def test_names_of_a_process(paths: list[bytes], unique: bytes, function: bytes, thread: bytes) -> None:
    began = time.process_time()
    shared_helper().renew()
    process = target()
    process.rename(paths, unique, function, thread)
    document = json.loads(ask(process, "dlstate", "--json"))
    found = {int(library["link_map"], 16): library for library in document["libraries"]}
    for name, path in zip(("libopen.so", "libdep.so", "libunique.so", "libowed.so"), paths):
        library = found[process.maps[name]]
        assert not path or UNDO(library["path"]) == decode(path)
        assert decode(path).rstrip("/").endswith(UNDO(library["name"])) or not path.strip(b"/")
    (owed,) = (hold for hold in found[process.maps["libowed.so"]]["holds"] if hold["kind"] == "tls-destructors")
    assert UNDO(owed["destructors"][0]["thread"]["name"]) == decode(thread)
    ask(process, "dlstate")
    for name in ("libdep.so", "libunique.so", "libowed.so"):
        ask(process, "dlstate", f"&{process.maps[name]:#x}", "-v")
    ask(process, "dlplan", f"&{process.maps['libopen.so']:#x}")
    ask(process, "dlplan", f"&{process.maps['libopen.so']:#x}", "--json")
    ask(process, "dlstate", "no such library")
    assert time.process_time() - began < LIMIT_SECONDS


WIDE = st.lists(
    st.sampled_from([0, 0x1B, 0x0A, 0x85, 0xD83D, 0xDE00, 0xDC80, 0xDCFF, 0xFFFF, 0x202E, 0x5C, 0x78, 0x34, 0x31])
    | st.integers(0, 0xFFFF),
    min_size=8,
    max_size=8,
).map(lambda units: struct.pack("<8H", *units))


@functools.cache
def dump(form: Form) -> bytes:
    """Return a dump of the story's process."""
    return process(form).dump(full=False)


@examples(100)
@given(form=st.sampled_from([WIN10, WIN7]), name=WIDE, imported=st.binary(min_size=8, max_size=8))
def test_names_of_dlls(tmp_path_factory: pytest.TempPathFactory, form: Form, name: bytes, imported: bytes) -> None:
    began = time.process_time()
    path = tmp_path_factory.getbasetemp() / "names.dmp"
    data = dump(form).replace("libA.dll".encode("utf-16-le"), name).replace(b"libB.dll", imported.replace(b"\0", b"?"))
    path.write_bytes(data)
    of = MinidumpTarget(str(path))
    try:
        for words in (("dllstate",), ("dllstate", "--json"), ("dllplan", "libC.dll"), ("dllgone", "--json")):
            ask(of, *words)
        ask(of, "dllstate", "*", "-v")
    finally:
        of.close()
    assert time.process_time() - began < LIMIT_SECONDS


@functools.cache
def machine(folder: Path) -> bytes:
    """Return a dump of a machine."""
    return build(windows("10.0.19041.3570")).save(folder / "names-whole.dmp").read_bytes()


@examples(100)
@given(name=WIDE)
def test_names_of_files(tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
    began = time.process_time()
    folder = tmp_path_factory.getbasetemp()
    path = folder / "names.kdmp"
    path.write_bytes(machine(folder).replace("python35".encode("utf-16-le"), name))
    of = KernelDump(str(path))
    try:
        for words in (("dllshare", "--all"), ("dllshare", "--all", "--json"), ("dllshare", "ntdll.dll")):
            ask(of, *words)
    finally:
        of.close()
    assert time.process_time() - began < LIMIT_SECONDS
