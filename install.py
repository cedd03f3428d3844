#!/usr/bin/env python3
"""Install, remove, examine, demonstrate or test dlwhy, straight from its checkout: ``python3 install.py -h``.

Registers the package ``dlwhy`` from this folder, which is not searched for modules.  This file must parse on any
Python 3, to reject an old one in one line.
"""

import os
import sys

if sys.version_info < (3, 9):
    THIS_PYTHON = ".".join(map(str, sys.version_info[:2]))
    sys.exit("install.py: needs Python 3.9 or later, this is " + THIS_PYTHON + "; try python3.11 install.py")


def _load_package(root):  # type: (str) -> None
    import importlib.util

    if getattr(sys.modules.get("dlwhy"), "__path__", None) == [root]:
        return  # by python -m
    spec = importlib.util.spec_from_file_location(
        "dlwhy", os.path.join(root, "__init__.py"), submodule_search_locations=[root]
    )
    if spec is None or spec.loader is None:
        raise ImportError("no package at " + root)
    package = importlib.util.module_from_spec(spec)
    sys.modules["dlwhy"] = package
    spec.loader.exec_module(package)


def _run_tests(changes, arguments, by_lock):  # type: ignore[no-untyped-def]
    from dlwhy.tests.run import run_tests

    return run_tests(changes, arguments, by_lock)


if __name__ == "__main__":
    ROOT = os.path.dirname(os.path.realpath(__file__))
    # Python has put this folder first on sys.path: nothing is imported from it or written to it, and nothing is
    # imported from the current folder.
    sys.dont_write_bytecode = True
    sys.path[:] = [folder for folder in sys.path if os.path.isabs(folder) and os.path.realpath(folder) != ROOT]
    _load_package(ROOT)
    from dlwhy.common.setup import cli

    sys.exit(cli.main(sys.argv[1:], _run_tests))
