"""Load dlwhy into LLDB: ``command script import …/lldb_ext/dlwhy_lldb.py``.

Registers the package ``dlwhy`` from the folder above, restoring the module search path, on which LLDB puts this folder.
This file must parse in any Python 3, so that an old one is refused with one line.
"""

import importlib.util
import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
BROKEN = (
    "dlwhy: this LLDB does not find its own Python modules (Debian's lldb-14 looks in a wrong folder); start it as:\n"
    "PYTHONPATH=/usr/lib/llvm-14/lib/python{}.{}/dist-packages lldb-14\n"
)


def _load_package(root):  # type: (str) -> None
    for name in [n for n in sys.modules if n == "dlwhy" or n.startswith("dlwhy.")]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        "dlwhy", os.path.join(root, "__init__.py"), submodule_search_locations=[root]
    )
    if spec is None or spec.loader is None:
        raise ImportError("no package at " + root)
    package = importlib.util.module_from_spec(spec)
    sys.modules["dlwhy"] = package
    spec.loader.exec_module(package)


def __lldb_init_module(debugger, session):  # type: ignore
    """Define the commands."""
    if sys.version_info < (3, 9):
        sys.stderr.write("dlwhy needs an LLDB with Python 3.9 or newer; this one has {}.{}\n".format(*sys.version_info))
        return
    if not hasattr(sys.modules.get("lldb"), "SBDebugger"):
        sys.stderr.write(BROKEN.format(*sys.version_info))
        return
    if __name__ != "dlwhy.lldb_ext.dlwhy_lldb":
        # Imported as a file: LLDB has put its folder on the path.
        sys.path[:] = [folder for folder in sys.path if folder != FOLDER]
        _load_package(ROOT)
    from dlwhy.common.imports import OwnImports

    with OwnImports():
        from dlwhy.lldb_ext import commands

        commands.register(debugger, session)
