"""Run dlwhy from the shell: ``python3 -m dlwhy …``, or ``python3 CHECKOUT …``, or by the command of install.py.

This file must parse on any Python 3, to refuse an old one in one line.
"""

import gc
import os
import sys


def _register_package(root):  # type: (str) -> None
    """Register the package from its folder; by hand, since importlib.util takes 2 ms to import."""
    from importlib.machinery import SourceFileLoader

    package = type(sys)("dlwhy")
    package.__file__ = os.path.join(root, "__init__.py")
    package.__package__ = "dlwhy"
    package.__path__ = [root]
    package.__loader__ = SourceFileLoader("dlwhy", package.__file__)
    sys.modules["dlwhy"] = package
    package.__loader__.exec_module(package)


# A short-lived process needs no garbage collection.
gc.disable()
if sys.version_info < (3, 9):
    sys.stderr.write("dlwhy needs Python 3.9 or newer; this one is {}.{}\n".format(*sys.version_info))
    sys.exit(2)
if not __package__:
    # Started by the path of a checkout, which Python puts first on sys.path.
    ROOT = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder or "/") != ROOT]
    _register_package(ROOT)
elif not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    # Started by -m, which puts the current folder first.
    del sys.path[0]

# Import nothing from the current folder.
sys.path[:] = [folder for folder in sys.path if os.path.isabs(folder)]
try:
    from dlwhy.common.cli import entry
except KeyboardInterrupt:
    os._exit(130)

entry()
