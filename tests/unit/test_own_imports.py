"""Is code found in the folders where it should be, and is ``sys.path`` the user's again afterwards?"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from dlwhy.common import imports
from dlwhy.common.imports import OwnImports, package_folders, private_folder

VERSION = "python{}.{}".format(*sys.version_info)

if sys.platform != "win32":

    @pytest.mark.parametrize(
        ("home", "data", "expected"),
        [
            ("/home/u", "", f"/home/u/.local/share/dlwhy/{VERSION}"),
            ("/home/u", "/data", f"/data/dlwhy/{VERSION}"),
            ("/home/u", "data", f"/home/u/.local/share/dlwhy/{VERSION}"),
            (".", "", ""),
            ("u", "data", ""),
        ],
    )
    def test_the_private_folder(monkeypatch: pytest.MonkeyPatch, home: str, data: str, expected: str) -> None:
        monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("XDG_DATA_HOME", data)
        assert private_folder() == expected
        assert package_folders() == ([expected] if expected else [])


def test_the_path_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    path: list[object] = ["", "/a", ".", "b/c", "/d", ".", Path("x")]
    monkeypatch.setattr(sys, "path", list(path))
    finders = list(sys.meta_path)
    with OwnImports():
        assert sys.path == ["/a", "/d", Path("x")]
        with OwnImports():
            assert sys.path == ["/a", "/d", Path("x")]
        sys.path.append("/added")
    assert sys.path == [*path, "/added"]
    with pytest.raises(ValueError, match="x"), OwnImports():
        int("x")
    assert sys.path == [*path, "/added"]
    assert sys.meta_path == finders


def package(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text("")
    return folder


def test_private_packages_come_first_and_only_those(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    private = package(tmp_path / "private", "tabulate")
    package(private, "other_package")
    elsewhere = package(tmp_path / "elsewhere", "tabulate")
    package(elsewhere, "rust_demangler")
    monkeypatch.setattr(imports, "private_folder", lambda: str(private))
    monkeypatch.setattr(sys, "path", [str(elsewhere), "."])
    monkeypatch.chdir(package(tmp_path / "here", "rust_demangler"))
    for name in ("tabulate", "rust_demangler"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with OwnImports():
        found = {name: importlib.util.find_spec(name) for name in ("tabulate", "rust_demangler", "other_package")}
    assert {name: spec and spec.origin for name, spec in found.items()} == {
        "tabulate": str(private / "tabulate.py"),
        "rust_demangler": str(elsewhere / "rust_demangler.py"),
        "other_package": None,
    }
    spec = importlib.util.find_spec("tabulate")
    assert spec is not None
    assert spec.origin == str(elsewhere / "tabulate.py"), "to others nothing changes"


def test_what_pip_has_installed_beside_us_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(imports, "ROOT", str(tmp_path / "dlwhy"))
    monkeypatch.setattr(imports, "private_folder", lambda: "/private")
    monkeypatch.setattr(sys, "path", ["/usr/lib/python3"])
    assert package_folders() == ["/private"]
    monkeypatch.setattr(sys, "path", ["/usr/lib/python3", str(tmp_path)])
    assert package_folders() == [str(tmp_path), "/private"]
