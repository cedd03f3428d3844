"""What happens at a limit that is too far away to be reached in a test?  There it is lowered."""

from __future__ import annotations

import sys

import pytest


def lower(monkeypatch: pytest.MonkeyPatch, package: str, name: str, value: int) -> None:
    """Lower a limit in all modules of a package that have it."""
    prefix = f"dlwhy.{package}."
    modules = [module for key, module in sys.modules.items() if key.startswith(prefix) and hasattr(module, name)]
    assert modules, f"no module of {package} has {name}"
    for module in modules:
        monkeypatch.setattr(module, name, value)
