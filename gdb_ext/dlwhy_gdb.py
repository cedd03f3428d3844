"""Load dlwhy into gdb: ``source …/gdb_ext/dlwhy_gdb.py``.

Registers the package ``dlwhy`` from the folder above, leaving the module search path as it is, but for the folder of
our own dependencies, which is appended.  This file must parse on any Python 3, to refuse an old one in one line.
"""

import importlib.util
import os
import sys


def _load_package(root):
    if "dlwhy" in sys.modules:
        for name in [n for n in sys.modules if n == "dlwhy" or n.startswith("dlwhy.")]:
            del sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        "dlwhy", os.path.join(root, "__init__.py"), submodule_search_locations=[root]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["dlwhy"] = package
    spec.loader.exec_module(package)


def _append_dependencies():
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    folder = os.path.join(data, "dlwhy", "python%d.%d" % sys.version_info[:2])
    if os.path.isdir(folder) and folder not in sys.path:
        sys.path.append(folder)


if sys.version_info < (3, 9):
    sys.stderr.write("dlwhy needs a gdb with Python 3.9 or newer; this one has %s\n" % sys.version.split()[0])
else:
    _append_dependencies()
    _load_package(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    from dlwhy.gdb_ext import commands as _commands

    _commands.register()
