"""Does dltrace predict every close of real programs, and find a leak that is known? With -s: docs/linux.md's table."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Optional

from dlwhy.tests.hosts.gdbrun import SCRIPT, clean_environment
from dlwhy.tests.support.apache import APACHE, APACHE_MODULES, free_port, read_log
from dlwhy.tests.support.namespaces import own_mounts
from dlwhy.tests.trace.attached import Traced, document_in, read

TIMEOUT = 120
SIGNALS = "SIGUSR1 SIGHUP SIGTERM SIGCHLD SIGWINCH SIG32 SIG33 SIG34"
CTYPES = """
import ctypes, _ctypes, ctypes.util
for name in "z bz2 lzma crypto ssl expat stdc++ gcc_s elf dw sqlite3 ncursesw readline uuid ffi gmp m resolv".split():
    found = ctypes.util.find_library(name)
    for _ in range(2) if found else ():
        library = ctypes.CDLL(found)
        again = ctypes.CDLL(found)
        _ctypes.dlclose(again._handle)
        _ctypes.dlclose(library._handle)
"""
ICONV = """
import ctypes
libc = ctypes.CDLL(None)
libc.iconv_open.restype = ctypes.c_void_p
libc.iconv_close.argtypes = [ctypes.c_void_p]
for _ in range(4):
    for name in b"EUC-KR", b"EUC-JP", b"BIG5", b"ISO-2022-JP", b"UTF-16", b"CP1252", b"KOI8-R":
        found = libc.iconv_open(b"ISO-8859-16", name)
        if found != ctypes.c_void_p(-1).value:
            libc.iconv_close(found)
"""
PERL = """
use DynaLoader; use File::Find; use Config; use Cwd;
my @found;
find(sub { push @found, $File::Find::name if /\\.so$/ }, Cwd::realpath($Config{archlibexp}));
for my $path (sort @found) {
    my $handle = DynaLoader::dl_load_file($path, 0) or next;
    DynaLoader::dl_unload_file($handle);
}
"""
TOKENS = """
#include <dlfcn.h>
#include <stdio.h>
int main(void)
{
    for (int i = 0; i < 5; i++) {
        void *handle = dlopen("/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0", RTLD_NOW);
        unsigned long (*initialise)(void *) =
            handle ? (unsigned long (*)(void *))dlsym(handle, "C_Initialize") : NULL;
        if (!initialise)
            return 1;
        initialise(NULL); /* fails where no daemon runs */
        dlclose(handle);
    }
    puts("done");
    return 0;
}
"""


# What opencryptoki's daemon leaves behind.
LOCKS = """
mount -t tmpfs none /run/lock && mkdir /run/lock/opencryptoki && touch /run/lock/opencryptoki/LCK..APIlock || exit 9
exec "$@"
"""


def trace(
    folder: Path,
    words: Sequence[str],
    options: str = "",
    meanwhile: Optional[Callable[[], None]] = None,
    variables: Optional[Mapping[str, str]] = None,
) -> Traced:
    """Run a program in gdb, traced from before its first constructor's end to its own end."""
    path = shutil.which(words[0])
    assert path is not None, f"{words[0]} is needed: python3 install.py test installs it"
    start = f"dltrace start {options} --log {folder / 'log.jsonl'}"
    commands = [
        "set pagination off",
        "set breakpoint pending on",
        "set startup-with-shell off",
        f"handle {SIGNALS} nostop noprint pass",
        "tbreak __libc_start_main",
        "run",
        start,
        "continue",
        "dltrace report",
        "dltrace report --json",
    ]
    command = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set auto-load safe-path /"]
    command += ["-x", str(SCRIPT)]
    for each in commands:
        command += ["-ex", each]
    # Its locks are the program's own, and nothing of this machine is touched.
    command = [*own_mounts(), "/bin/sh", "-c", LOCKS, "sh", *command]
    with (folder / "debugger.log").open("wb") as output:
        debugger = subprocess.Popen(
            [*command, "--args", path, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=clean_environment(variables or {}),
            start_new_session=True,
        )
    try:
        if meanwhile is not None:
            meanwhile()
        debugger.wait(TIMEOUT)
    finally:
        debugger.kill()
        debugger.wait()
    output_text = read(folder)
    return Traced(folder, output_text, document_in(output_text))


def judge(name: str, result: Traced, closes: int) -> None:
    """Hold a trace against what is asked for, and print the row of the table."""
    totals = result.report["totals"]
    reasons = Counter(
        each["holds"][0]["kind"] if each["holds"] else "none"
        for close in result.events("close")
        for each in close["kept"]
    )
    shown = ", ".join(f"{kind} {count}" for kind, count in reasons.most_common())
    print(
        f"\n| {name} | {totals['opens']} | {totals['closes']} | {totals['libraries_unloaded']} | "
        f"{totals['closes_that_kept']} | "
        f"{shown or '-'} | {totals['closes_mispredicted']} |"
    )
    assert totals["closes"] >= closes, result.output[-3000:]
    assert totals["closes_mispredicted"] == 0, result.report["closes_mispredicted"]
    assert totals["end_not_seen"] == 0
    assert totals["opens_unseen"] == totals["closes_unseen"] == 0
    assert result.report["problems"] == []
    assert "Traceback" not in result.output


def script(folder: Path, text: str) -> str:
    """Write a script: gdb starts the program without a shell, and so without quotes."""
    path = folder / "script"
    path.write_text(text, encoding="ascii")
    return str(path)


def test_python_ctypes(tmp_path: Path) -> None:
    judge("python ctypes, system libraries", trace(tmp_path, ["/usr/bin/python3", script(tmp_path, CTYPES)]), 20)


def test_perl_extensions(tmp_path: Path) -> None:
    judge("perl, its extensions", trace(tmp_path, ["/usr/bin/perl", script(tmp_path, PERL)]), 20)


def test_iconv_cycles(tmp_path: Path) -> None:
    result = trace(tmp_path, ["/usr/bin/python3", script(tmp_path, ICONV)])
    judge("iconv cycles", result, 1)
    assert any(each["initiated_by"] == "libc" for each in result.events("close"))


def test_pam(tmp_path: Path) -> None:
    judge("su (PAM)", trace(tmp_path, ["su", "root", "-c", "true"]), 1)


def test_image_magick(tmp_path: Path) -> None:
    convert = shutil.which("convert-im7.q16") or "convert-im6.q16"
    words = [convert, "rose:", "-resize", "50%", "png:out.png"]
    judge("ImageMagick", trace(tmp_path, words), 1)


def test_apache_reloads(tmp_path: Path) -> None:
    apache = shutil.which("apache2") or "/usr/sbin/apache2"
    folder = Path("/usr/lib/apache2/modules")
    loads = [f"LoadModule {name}_module {folder}/mod_{name}.so" for name in APACHE_MODULES.split()]
    configuration = tmp_path / "apache.conf"
    text = APACHE.format(folder=tmp_path, port=free_port(), modules="\n".join(loads))
    configuration.write_text(text, encoding="utf-8")

    def lines() -> int:
        return read_log(tmp_path).count("resuming normal operations")

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + TIMEOUT
        while lines() < count:
            assert time.monotonic() < deadline, read_log(tmp_path) + read(tmp_path)
            time.sleep(0.05)

    def reload() -> None:
        wait_for(1)
        pid = int((tmp_path / "pid").read_text(encoding="ascii"))
        for number, which in enumerate((signal.SIGUSR1, signal.SIGHUP), 2):
            os.kill(pid, which)
            wait_for(number)
        os.kill(pid, signal.SIGTERM)

    words = [apache, "-DFOREGROUND", "-f", str(configuration)]
    judge("apache2, reloaded by USR1 and HUP", trace(tmp_path, words, meanwhile=reload), 100)


def test_opencryptoki_leaves_its_lock_open(tmp_path: Path) -> None:
    source = tmp_path / "tokens.c"
    source.write_text(TOKENS, encoding="ascii")
    subprocess.run(["gcc", "-g", "-o", str(tmp_path / "tokens"), str(source), "-ldl"], check=True)
    first = trace(tmp_path, [str(tmp_path / "tokens")], "--fds")
    leaks = first.events("descriptor-leak")
    assert {each["descriptor_target"].rpartition("/")[2] for each in leaks} == {"LCK..APIlock"}
    assert len(leaks) == 5
    assert {each["library"]["name"] for each in leaks} == {"libopencryptoki.so.0"}
    (tmp_path / "again").mkdir()
    second = trace(tmp_path / "again", [str(tmp_path / "tokens")], "--fds libopencryptoki*")
    sites = {site["function"] for each in second.events("descriptor-leak") for site in each["opened_at"]}
    # Since 3.23, the one of Debian 13, it exports no more than PKCS#11 says.
    assert sites in ({"CreateProcLock"}, {None})
