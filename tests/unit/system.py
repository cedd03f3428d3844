"""Which C library has this system?"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
from dlwhy.tests.generate.glibc import find_libcs

ROOT = Path("/")


def system_libc() -> Path:
    """Find the libc.so.6 of the system, for which debug information is installed, or skip the test."""
    libcs = [libc for libc in find_libcs(ROOT) if libc.parent.name == sysconfig.get_config_var("MULTIARCH")]
    if not libcs or not (ROOT / "usr/lib/debug/.build-id").is_dir():
        pytest.skip("needs Debian's libc6 and libc6-dbg")
    return libcs[0]
