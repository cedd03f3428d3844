"""Run dlwhy from the shell: ``python3 -m dlwhy …``, or ``python3 CHECKOUT …``, or by the command of install.py."""

from __future__ import annotations

import os
import sys

if not __package__:
    # Started by the path of a checkout: register the package from here, and leave sys.path without it.  By hand, since
    # importlib.util takes 2 ms to import.
    ROOT = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder or ".") != ROOT]
    PACKAGE = type(sys)("dlwhy")
    PACKAGE.__file__ = os.path.join(ROOT, "__init__.py")
    PACKAGE.__package__ = "dlwhy"
    PACKAGE.__path__ = [ROOT]
    sys.modules["dlwhy"] = PACKAGE
    with open(PACKAGE.__file__, encoding="utf-8") as stream:
        exec(compile(stream.read(), PACKAGE.__file__, "exec"), vars(PACKAGE))
    # Where install.py puts the packages that dlwhy uses.
    DATA = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(DATA):
        DATA = os.path.join(os.path.expanduser("~"), ".local", "share")
    sys.path.append(os.path.join(DATA, "dlwhy", "python{}.{}".format(*sys.version_info)))

from dlwhy.common.cli import entry

entry()
