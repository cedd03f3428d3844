"""Load dlwhy into gdb: ``source …/gdb_ext/dlwhy_gdb.py``.

Registers the package ``dlwhy`` from the folder above, leaving the module search path as it is.  This file must parse in
any Python 3, so that an old one is refused with one line.
"""

import importlib.util
import os
import sys


def _load_package(root):  # type: (str) -> None
    if "dlwhy" in sys.modules:
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


if sys.version_info < (3, 9):
    sys.stderr.write("dlwhy needs a gdb with Python 3.9 or newer; this one has {}.{}\n".format(*sys.version_info))
else:
    # Not __file__: in a script that another one sources, gdb leaves it at the outer script.
    _load_package(os.path.dirname(os.path.dirname(os.path.realpath(_load_package.__code__.co_filename))))
    from dlwhy.common.imports import OwnImports as _OwnImports

    with _OwnImports():
        from dlwhy.gdb_ext import commands as _commands

        _commands.register()
