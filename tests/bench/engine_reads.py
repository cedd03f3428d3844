"""Explain the DLLs of a dump in the engine, and read the same bytes again without explaining: what is ours of the time?

Run by the Windows CPython of the lab: engine_reads.py CHECKOUT DUMP.  Prints both in milliseconds.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pykd

ROUNDS = 7


def main(root: str, path: str) -> None:
    """Measure, several times in turn."""
    spec = importlib.util.spec_from_file_location(
        "dlwhy", os.path.join(root, "__init__.py"), submodule_search_locations=[root]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["dlwhy"] = package
    spec.loader.exec_module(package)
    from dlwhy.common.errors import FaultError
    from dlwhy.common.windows.state import explain_dlls
    from dlwhy.windbg_ext.target import current_target

    pykd.initialize()
    pykd.loadDump(path)
    all_of_it, reads_alone = [], []
    for _ in range(ROUNDS):
        target = current_target()
        real = target.read
        reads: list[tuple[int, int]] = []
        target.read = partial(record, reads, real)  # type: ignore[method-assign]
        began = time.perf_counter()
        count = len(explain_dlls(target).dlls)
        all_of_it.append(time.perf_counter() - began)
        began = time.perf_counter()
        for address, size in reads:
            # What cannot be read took its time too.
            with suppress(FaultError):
                real(address, size)
        reads_alone.append(time.perf_counter() - began)
    milliseconds = [1000 * statistics.median(each) for each in (all_of_it, reads_alone)]
    sys.stdout.write(f"{count} {milliseconds[0]:.1f} {milliseconds[1]:.1f}\n")


def record(reads: list[tuple[int, int]], real: Callable[[int, int], bytes], address: int, size: int) -> bytes:
    """Read, and note what was read."""
    reads.append((address, size))
    return real(address, size)


main(sys.argv[1], sys.argv[2])
