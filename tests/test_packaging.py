"""Does each way to get at dlwhy give the package `dlwhy`, whole, and no other name?"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [name for name in ("common", "gdb_ext", "lldb_ext", "windbg_ext") if (ROOT / name).is_dir()]
ENTRY = "gdb_ext/dlwhy_gdb.py"

# Run by a Python that should know dlwhy, in an empty folder.
PROBE = """
import importlib.metadata, importlib.util, json, pathlib, sys
import dlwhy, dlwhy.common.errors
root = pathlib.Path(dlwhy.__file__).parent
print(json.dumps({
    "version": [dlwhy.__version__, importlib.metadata.version("dlwhy")],
    "strangers": [name for name in sys.argv[1:] if importlib.util.find_spec(name)],
    "data": sorted(str(p.relative_to(root)) for p in root.glob("common/data/**/*.json")),
    "typed": (root / "py.typed").exists(),
    "path": sys.path,
}))
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Run a command with an environment that knows no Python folder but those given; return its output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def copy_checkout(folder: Path) -> Path:
    """Copy what belongs to the package, so that no build leaves a trace in the checkout."""
    folder.mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, folder)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel straight from the checkout."""
    checkout = copy_checkout(tmp_path_factory.mktemp("wheel") / "some name")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", cwd=checkout)
    return next((checkout / "dist").glob("*.whl"))


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Make a Python that has no packages; it borrows pip and setuptools by PYTHONPATH when told to."""
    run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv"), cwd=tmp_path)
    return tmp_path / "venv" / "bin" / "python"


def pip_install(python: Path, *what: str) -> None:
    """Install into a Python without a network."""
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    run(
        *(str(python), "-m", "pip", "install", *options, *what),
        cwd=python.parent,
        PYTHONPATH=sysconfig.get_path("purelib"),
    )


def check_installed(python: Path, empty: Path) -> None:
    """Check that a Python knows dlwhy, all of it, and none of its folders by another name."""
    empty.mkdir()
    seen = json.loads(run(str(python), "-c", PROBE, *FOLDERS, "tests", "install", cwd=empty))
    assert seen["version"][0] == seen["version"][1]
    assert seen["strangers"] == []
    assert seen["data"] == sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("common/data/**/*.json"))
    assert seen["typed"]
    assert [path for path in seen["path"] if (empty / path / "common").exists()] == []


def test_the_list_of_packages_is_that_of_the_tree() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r"^packages = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    packages = re.findall(r'"([^"]+)"', found[1])
    folders = {path.parent for name in FOLDERS for path in (ROOT / name).rglob("*.py")}
    assert packages == sorted(["dlwhy", *("dlwhy." + ".".join(f.relative_to(ROOT).parts) for f in folders)])
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_wheel(wheel: Path, python: Path, tmp_path: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dlwhy"}
    pip_install(python, str(wheel))
    check_installed(python, tmp_path / "empty")


def test_wheel_by_way_of_an_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    run(sys.executable, "-m", "build", "--no-isolation", cwd=checkout)
    (rebuilt,) = (checkout / "dist").glob("*.whl")
    assert sorted(zipfile.ZipFile(rebuilt).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())
    (sdist,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.getnames())


def test_editable(python: Path, tmp_path: Path) -> None:
    pip_install(python, "--editable", str(copy_checkout(tmp_path / "checkout")))
    check_installed(python, tmp_path / "empty")


def test_installed_package_in_gdb(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = f"python import sys; sys.path.append({str(tmp_path / 'site')!r})"
    output = gdb(tmp_path, script, f"source {tmp_path}/site/dlwhy/{ENTRY}", "help dlstate")
    assert "Usage: dlstate" in output


def gdb(cwd: Path, *commands: str) -> str:
    """Run gdb commands in a gdb without init files and return all that it prints."""
    options = [option for command in commands for option in ("-ex", command)]
    return run("gdb", "-nx", "-batch", *options, cwd=cwd, HOME=str(cwd))


def test_sourced_from_a_folder_with_a_space_twice(tmp_path: Path) -> None:
    entry = copy_checkout(tmp_path / "a-check out") / ENTRY
    output = gdb(tmp_path, f"source {entry}", f"source {entry}", "help dlstate", "python import dlwhy")
    assert "Usage: dlstate" in output
    assert "Traceback" not in output


def test_sourced_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.py"
    link.symlink_to(copy_checkout(tmp_path / "checkout") / ENTRY)
    assert "Usage: dlstate" in gdb(tmp_path, f"source {link}", "help dlstate")


def test_sourced_beside_a_foreign_module_named_common(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "common.py").write_text("WHOSE = 'foreign'\n")
    output = gdb(
        tmp_path,
        f"python import sys; sys.path.insert(0, {str(tmp_path / 'foreign')!r}); import common",
        "python before = list(sys.path)",
        f"source {copy_checkout(tmp_path / 'checkout') / ENTRY}",
        "help dlstate",
        "python import common; print('common is', common.WHOSE)",
        "python print('added', [path for path in sys.path if path not in before])",
    )
    assert "Usage: dlstate" in output
    assert "common is foreign" in output
    assert "added []" in output
