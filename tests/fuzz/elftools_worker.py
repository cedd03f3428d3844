"""What do our readers of symbol files say of damaged files, with a given pyelftools?

Run as ``python elftools_worker.py FOLDER LIBRARY``: FOLDER has the package elftools, LIBRARY is a whole file with a
local function ``local``.  For each path on standard input it writes a line of JSON: the name found for that function's
address, the value found for its name, and the seconds of processor time.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, sys.argv[1])
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import conftest  # noqa: F401 - makes dlwhy the checkout
import elftools
from dlwhy.common.helper import shared_helper
from dlwhy.common.linux.elf.files import find_local_symbol, name_function
from dlwhy.common.linux.elf.image import ElfImage
from dlwhy.common.memory import Memory
from dlwhy.tests.fakes import FakeTarget
from elftools.elf.elffile import ELFFile

BASE = 0x10000
PAGE = 4096


def loaded(path: Path) -> tuple[FakeTarget, int]:
    """Lay a file out in memory as the loader does, and find the address of its local function."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        segments = {}
        for segment in elf.iter_segments():
            if segment["p_type"] != "PT_LOAD":
                continue
            start = segment["p_vaddr"] - segment["p_vaddr"] % PAGE
            pad = segment["p_vaddr"] - start
            segments[BASE + start] = (bytes(pad) + segment.data() + bytes(2 * PAGE))[: 2 * PAGE]
        symbol = elf.get_section_by_name(".symtab").get_symbol_by_name("local")[0]
    return FakeTarget(segments, files={"it": path}), BASE + int(symbol["st_value"])


def main(library: Path) -> None:
    """Answer for each path."""
    target, address = loaded(library)
    print(json.dumps(elftools.__version__), flush=True)
    for line in sys.stdin:
        target._files["it"] = Path(line.rstrip("\n"))
        shared_helper().renew()
        began = time.process_time()
        memory = Memory(target)
        image = ElfImage.at(memory, BASE)
        name = name_function(memory, image, "it", BASE, address)
        value = find_local_symbol(memory, image, "it", "local")
        print(json.dumps([name, value, time.process_time() - began]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[2]))
