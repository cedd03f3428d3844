"""Run dlwhy from the shell: ``python3 -m dlwhy …``, or ``python3 CHECKOUT …``."""

from __future__ import annotations

import os
import sys

if not __package__:
    # Started by the path of a checkout: register the package from here, and leave sys.path without it.
    import importlib.util

    ROOT = os.path.dirname(os.path.abspath(__file__))
    SPEC = importlib.util.spec_from_file_location(
        "dlwhy", os.path.join(ROOT, "__init__.py"), submodule_search_locations=[ROOT]
    )
    if SPEC is None or SPEC.loader is None:
        raise ImportError("no package at " + ROOT)
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or ".") != ROOT]
    PACKAGE = importlib.util.module_from_spec(SPEC)
    sys.modules["dlwhy"] = PACKAGE
    SPEC.loader.exec_module(PACKAGE)

from dlwhy.common.cli import entry

entry()
