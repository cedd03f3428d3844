"""Does dlstate run clean on programs that nobody made for it, and list what is mapped?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dlwhy.tests.hosts.gdbrun import Answers, clean_environment, run_gdb
from dlwhy.tests.hosts.mapped import listed_files, mapped_files
from dlwhy.tests.hosts.scenario import Json
from dlwhy.tests.support.apache import APACHE, APACHE_MODULES, free_port, read_log

# Debian's own: it has its extension modules as files, where other builds have them inside.
PYTHON = "/usr/bin/python3"
# Loads the compiled modules of all packages of the tests' environment, mypy's among them.
LOAD_PACKAGES = """
import ctypes, glob, sys, sysconfig
for path in sorted(glob.glob(sysconfig.get_path("platlib") + "/**/*.cpython-*.so", recursive=True)):
    try:
        ctypes.CDLL(path)
    except OSError:
        pass
"""
IMPORT_ALL = """
import glob, importlib.util, sys, sysconfig
for path in sorted(glob.glob(sysconfig.get_path("platstdlib") + "/lib-dynload/*.so")):
    name = path.rsplit("/", 1)[1].split(".")[0]
    if not name.startswith(("_test", "_xx", "xx", "_ctypes_test")):
        try:
            __import__(name)
        except ImportError:
            pass
"""
# Half of these load further libraries of their own, each through dlopen.
IMPORT_MORE = """
import ctypes
for name in ("libm.so.6", "libresolv.so.2", "libutil.so.1", "libanl.so.1", "libnss_compat.so.2"):
    ctypes.CDLL(name)
"""
WAIT = "print('ready', flush=True); sys.stdin.read()"


@contextmanager
def running(command: list[str], ready: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program until it says that it is ready, and end it afterwards."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=clean_environment({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if ready in line:
                break
        assert process.poll() is None, "".join(lines)
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(folder: Path, pid: int) -> tuple[Json, str, Answers]:
    """Attach to a process; return the answer, the process's maps at that time, and all answers."""
    plan = {
        "mode": "attach",
        "program": os.path.realpath(f"/proc/{pid}/exe"),
        "pid": pid,
        "stop": 1,
    }
    answers = run_gdb(folder / "answers", plan)
    maps = (answers.folder / "1.maps").read_text(encoding="utf-8", errors="surrogateescape")
    return answers.documents[1], maps, answers


def check_clean(folder: Path, pid: int, at_least: int) -> Json:
    """Ask a real program, and compare with its maps."""
    document, maps, answers = ask(folder, pid)
    assert "error" not in document, document["error"]
    assert document["problems"] == []
    assert len(document["libraries"]) >= at_least
    assert listed_files(document) == {path for path in mapped_files(maps) if is_library(path)}
    assert all(library["held"] is not None for library in document["libraries"])
    assert "Traceback" not in answers.text(1)
    return document


def is_library(path: str) -> bool:
    """Whether a mapped file is one of the loader's, and not something that a program maps by itself."""
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def test_python_with_its_extension_modules(tmp_path: Path) -> None:
    script = IMPORT_ALL + IMPORT_MORE + WAIT
    with running([PYTHON, "-I", "-c", script], "ready", tmp_path) as process:
        document = check_clean(tmp_path, process.pid, 50)
    modules = [library for library in document["libraries"] if "lib-dynload" in library["path"]]
    assert len(modules) >= 30
    assert all("open-count" in [hold["kind"] for hold in library["holds"]] for library in modules)


def test_python_with_a_hundred_extension_modules(tmp_path: Path) -> None:
    script = LOAD_PACKAGES + WAIT
    with running([sys.executable, "-I", "-c", script], "ready", tmp_path) as process:
        document = check_clean(tmp_path, process.pid, 100)
    modules = [library for library in document["libraries"] if "/site-packages/" in library["path"]]
    assert len(modules) >= 100
    assert all(library["held"] for library in modules)


def test_perl_with_extension_modules(tmp_path: Path) -> None:
    perl = shutil.which("perl")
    assert perl is not None, "perl is part of every Debian system"
    modules = "POSIX Socket Data::Dumper Fcntl File::Glob IO List::Util MIME::Base64 Storable Time::HiRes Digest::MD5"
    uses = " ".join(f"use {name};" for name in modules.split())
    script = uses + ' $| = 1; print "ready\\n"; <STDIN>;'
    with running([perl, "-e", script], "ready", tmp_path) as process:
        check_clean(tmp_path, process.pid, 12)


def test_apache_with_many_modules(tmp_path: Path) -> None:
    apache = shutil.which("apache2") or "/usr/sbin/apache2"
    folder = Path("/usr/lib/apache2/modules")
    assert folder.is_dir(), "apache2-bin is needed: python3 install.py test installs it"
    loads = [f"LoadModule {name}_module {folder}/mod_{name}.so" for name in APACHE_MODULES.split()]
    configuration = tmp_path / "apache.conf"
    text = APACHE.format(folder=tmp_path, port=free_port(), modules="\n".join(loads))
    configuration.write_text(text, encoding="utf-8")
    with subprocess.Popen(
        [apache, "-X", "-f", str(configuration)],
        env=clean_environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            for _ in range(100):
                if (tmp_path / "pid").exists() or process.poll() is not None:
                    break
                time.sleep(0.1)
            if process.poll() is not None:
                raise AssertionError(f"apache2 ended: {process.communicate()[0]}{read_log(tmp_path)}")
            check_clean(tmp_path, process.pid, 50)
        finally:
            process.kill()
