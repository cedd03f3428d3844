r"""Load dlwhy into WinDbg: ``!py -g "…\windbg_ext\dlwhy_windbg.py" --install``, through the bootstrapper of pykd.

That defines aliases such as ``!dllshare``, which run this file again.  Without WinDbg it opens a dump itself:
``python dlwhy_windbg.py -z MEMORY.DMP dllshare python35.dll``, in a Python that has pykd.

Registers the package ``dlwhy`` from the folder above, leaving the module search path as it is.  This file must parse in
any Python 3, so that an old one is refused with one line.
"""

import importlib.util
import os
import sys


def _load_package(root):  # type: (str) -> None
    if getattr(sys.modules.get("dlwhy"), "__path__", None) == [root]:
        return  # an earlier command loaded it, in the same interpreter
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
    sys.stderr.write("dlwhy needs Python 3.9; WinDbg runs it in {}.{}\n".format(*sys.version_info))
else:
    # Not __file__: the bootstrapper sets none.  Each of its runs puts our folder on the path once more.
    SCRIPT = os.path.abspath(_load_package.__code__.co_filename)
    sys.path[:] = [
        folder for folder in sys.path if os.path.normcase(folder) != os.path.normcase(os.path.dirname(SCRIPT))
    ]
    _load_package(os.path.dirname(os.path.dirname(SCRIPT)))
    from dlwhy.common.imports import OwnImports as _OwnImports

    with _OwnImports():
        from dlwhy.windbg_ext import commands as _commands

    sys.exit(_commands.main(sys.argv[1:], SCRIPT))
