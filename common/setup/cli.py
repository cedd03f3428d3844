"""How is install.py used from the shell?"""

from __future__ import annotations

import argparse
import sys
from typing import Callable

from ..errors import ClosedOutputError, OutputError, SetupError
from ..host import open_closed_streams, write_to
from .changes import Changes
from .demo import demo
from .doctor import doctor
from .folders import ROOT
from .installation import install, paths, uninstall
from .ownership import refuse_folders_of_others
from .report import describe_os_error, print_error, redirect_to_null

#: Runs the tests, given what may be changed, pytest's arguments, and whether to use the locked packages.
RunTests = Callable[[Changes, list[str], bool], int]

DESCRIPTION = """Install, remove, examine, demonstrate or test dlwhy, straight from its checkout.

``install`` adds one marked block to gdb's init file, one to LLDB's, writes the shell's command dlwhy, and puts the
pure-Python packages that dlwhy uses into a private folder for each of their Pythons, by the hashes in requirements/.
On Windows it writes a script that WinDbg runs at its start.  No system Python and nothing else of the user's is
touched.  Nothing of the current folder is run: programs come from absolute folders of PATH and start in the checkout,
Pythons start isolated.  As root it works only where no other user can change what it reads, writes and runs.
"""


class _Parser(argparse.ArgumentParser):
    """A parser that writes its help as dlwhy does: argparse ignores an output that cannot be written."""

    def print_help(self, file: object = None) -> None:
        """Write the help."""
        write_to(sys.stdout, self.format_help())


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = _Parser(prog="install.py", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in {
        "install": "make gdb and LLDB load dlwhy",
        "uninstall": "undo install",
        "doctor": "examine the installation",
        "demo": "build a small program, ask dlwhy about it in gdb, show the answers",
        "test": "install what the tests need, then run them; what follows -- goes to pytest",
    }.items():
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("--dry-run", action="store_true", help="only say what would be done")
        if name == "test":
            unlocked = "install the newest packages that pyproject.toml allows, not those of the lock"
            command.add_argument("--unlocked", action="store_true", help=unlocked)
            command.add_argument("pytest_arguments", nargs="*", metavar="PYTEST_ARGUMENT")
    return parser.parse_args(arguments)


def main(arguments: list[str], run_tests: RunTests) -> int:
    """Run one sub-command and return the exit status.

    0: done; 1: not everything could be done, or doctor or the tests found something; 2: wrong usage; 3: the output
    cannot be written.

    :param run_tests: the sub-command test.
    """
    open_closed_streams()
    try:
        options = parse_arguments(arguments)
        return run(options, Changes(options.dry_run), run_tests)
    except ClosedOutputError:
        redirect_to_null(sys.stdout)
        return 0
    except OutputError as error:
        redirect_to_null(sys.stdout)
        print_error(str(error))
        return 3
    except (SetupError, OSError) as error:
        print_error(describe_os_error(error) if isinstance(error, OSError) else str(error))
        return 1


def run(options: argparse.Namespace, changes: Changes, run_tests: RunTests) -> int:
    """Run one sub-command and return the exit status.

    :raises DlwhyError: if it cannot be done.
    """
    refuse_folders_of_others(paths())
    if options.command == "test":
        if not (ROOT / "tests").is_dir():
            raise SetupError(f"there are no tests in {ROOT}: run it in the checkout, which has them")
        return run_tests(changes, options.pytest_arguments, not options.unlocked)
    if options.command == "doctor":
        return doctor()
    return {"install": install, "uninstall": uninstall, "demo": demo}[options.command](changes)
