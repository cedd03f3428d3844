"""Can a core be opened however it was kept?"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import dlwhy
import pytest
from dlwhy.common.errors import DumpFormatError, NotFoundError, UnsupportedError

COMPRESSORS = {"zstd": ["zstd", "-q"], "lz4": ["lz4", "-q"], "xz": ["xz", "-0", "-k"], "gzip": ["gzip", "-1", "-k"]}


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_compressed_core(rich_core: Path, tmp_path: Path, name: str) -> None:
    plain = tmp_path / "core"
    shutil.copy(rich_core, plain)
    words = [*COMPRESSORS[name], str(plain)]
    packed = {"zstd": "core.zst", "lz4": "core.lz4", "xz": "core.xz", "gzip": "core.gz"}[name]
    subprocess.run([*words, str(tmp_path / packed)] if name == "lz4" else words, check=True)
    with dlwhy.open_core(str(rich_core)) as expected, dlwhy.open_core(str(tmp_path / packed)) as found:
        assert found.state().libraries == expected.state().libraries


def test_compressed_core_that_is_cut_off(rich_core: Path, tmp_path: Path) -> None:
    subprocess.run(["zstd", "-q", str(rich_core), "-o", str(tmp_path / "whole.zst")], check=True)
    whole = (tmp_path / "whole.zst").read_bytes()
    (tmp_path / "cut.zst").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DumpFormatError):
        dlwhy.open_core(str(tmp_path / "cut.zst"))


def test_missing_decompressor_is_named(rich_core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["zstd", "-q", str(rich_core), "-o", str(tmp_path / "core.zst")], check=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="install zstd"):
        dlwhy.open_core(str(tmp_path / "core.zst"))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DumpFormatError, match="No such file"):
        dlwhy.open_core(str(tmp_path / "core"))


def test_not_a_core() -> None:
    with pytest.raises(DumpFormatError, match="no core"):
        dlwhy.open_core("/proc/self/exe")


COREDUMPCTL = """#!/bin/sh
# What coredumpctl(1) does: `coredumpctl dump -- MATCH` writes the newest core to standard output.
[ "$1 $2" = "dump --" ] || exit 2
[ "$3" = progA ] || { echo "No coredumps found." >&2; exit 1; }
exec cat "$CORE"
"""


def test_core_out_of_coredumpctl(rich_core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "coredumpctl"
    program.write_text(COREDUMPCTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CORE", str(rich_core))
    from dlwhy.common.dumps.opener import open_coredump

    with dlwhy.open_core(str(rich_core)) as expected, dlwhy.examine(open_coredump("progA")) as found:
        assert found.state().libraries == expected.state().libraries
    with pytest.raises(NotFoundError, match="No coredumps found"):
        open_coredump("progB")


def test_without_coredumpctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlwhy.common.dumps.opener import open_coredump

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="--core"):
        open_coredump("progA")
