"""Is the thread-local variable named that keeps a library, and none where the object is no variable?"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common.linux.model import HoldKind
from dlwhy.tests.support.plugins import RTLD_NOW, build_host, build_plugin, hosting

CACHE = """
struct Cache { int before[5]; int lines = 1; ~Cache(); };
Cache::~Cache() { lines = 0; }
thread_local int first = 7;
MODEL thread_local Cache cache;
extern "C" void use() { cache.lines += first; }
"""
BY_HAND = """
#include <stdlib.h>
extern void *__dso_handle;
int __cxa_thread_atexit_impl(void (*function)(void *), void *object, void *dso_symbol);
static _Thread_local int variable;
static void forget(void *pointer) { (void)pointer; }
void use(void) { variable = 1; __cxa_thread_atexit_impl(forget, malloc(8), &__dso_handle); }
"""
INSIDE = BY_HAND.replace("int variable;", "int variable[4];").replace("variable = 1", "variable[0] = 1")


def variables(folder: Path, *lines: str) -> list[Optional[str]]:
    """Let the program do something; give the variables that keep its plugin."""
    build_host(folder)
    with hosting(folder, f"open ./libplug.so {RTLD_NOW}", *lines, "close ./libplug.so") as host:
        holds = host.verdict("libplug.so").holds
    (hold,) = (hold for hold in holds if hold.kind is HoldKind.TLS_DESTRUCTORS)
    return [destructor.variable for destructor in hold.destructors]


@pytest.mark.parametrize("model", ["static", 'static __attribute__((tls_model("initial-exec")))'])
def test_a_variable_of_any_model_in_any_thread(tmp_path: Path, model: str) -> None:
    build_plugin(tmp_path, "libplug.so", CACHE.replace("MODEL", model))
    both = ("call ./libplug.so use", "thread ./libplug.so use")
    assert variables(tmp_path, *both) == ["cache", "cache"]


@pytest.mark.parametrize(("model", "name"), [("", "cache"), ("static", None)], ids=["exported", "local"])
def test_without_a_symbol_table_what_is_exported_is_named(tmp_path: Path, model: str, name: Optional[str]) -> None:
    build_plugin(tmp_path, "libplug.so", CACHE.replace("MODEL", model))
    subprocess.run(["strip", "libplug.so"], cwd=tmp_path, check=True)
    assert variables(tmp_path, "call ./libplug.so use") == [name]


def test_an_object_of_the_heap_is_no_variable(tmp_path: Path) -> None:
    build_plugin(tmp_path, "libplug.so", BY_HAND, "-xc")
    assert variables(tmp_path, "call ./libplug.so use") == [None]


def test_a_part_of_a_variable_is_named_by_it(tmp_path: Path) -> None:
    build_plugin(tmp_path, "libplug.so", INSIDE.replace("malloc(8)", "&variable[2]"), "-xc")
    assert variables(tmp_path, "call ./libplug.so use") == ["variable"]
