"""Run inside gdb: how long do reading and marking all libraries take?  Prints one JSON line."""

from __future__ import annotations

import json
import sys
import time

from dlwhy.common.linux.loader.collector import CollectorRules, mark
from dlwhy.common.linux.loader.find import find_loader_globals
from dlwhy.common.linux.loader.layout import choose_layouts
from dlwhy.common.linux.loader.maps import read_graph
from dlwhy.common.linux.loader.rendezvous import find_rendezvous
from dlwhy.common.memory import Memory
from dlwhy.gdb_ext.target import selected_target


def measure() -> dict[str, float]:
    """Take the best of several runs, each with a new and empty cache."""
    target = selected_target()
    memory = Memory(target)
    start = find_rendezvous(memory)
    private = find_loader_globals(memory, start)
    assert private is not None
    layouts = choose_layouts(memory, start, private).layouts
    times = []
    count = 0
    for _ in range(15):
        begin = time.perf_counter()
        graph = read_graph(Memory(target), layouts, private.rtld_global)
        for namespace in graph.namespaces:
            mark(namespace, graph, CollectorRules.of(layouts.version))
        times.append(time.perf_counter() - begin)
        count = len(graph.by_address)
    times.sort()
    return {"libraries": count, "best": times[0] / count * 1e6, "median": times[len(times) // 2] / count * 1e6}


sys.stdout.write("MEASURED " + json.dumps(measure()) + "\n")
