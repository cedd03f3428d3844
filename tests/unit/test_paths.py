"""Is the last part of a path found, in each system's way of writing it?"""

from __future__ import annotations

import pytest
from dlwhy.common.paths import base_name, windows_base_name


@pytest.mark.parametrize(
    ("path", "name"), [("/opt/libb.so", "libb.so"), ("libb.so", "libb.so"), ("/opt/", "opt"), ("/", "/"), ("", "")]
)
def test_base_names(path: str, name: str) -> None:
    assert base_name(path) == name


@pytest.mark.parametrize(
    ("path", "name"),
    [("C:\\app\\b.dll", "b.dll"), ("C:/app/b.dll", "b.dll"), ("b.dll", "b.dll"), ("C:\\", ""), ("", "")],
)
def test_base_names_of_windows(path: str, name: str) -> None:
    assert windows_base_name(path) == name
