"""How is install.py used from the shell?"""

from __future__ import annotations

import argparse
import sys
from typing import Callable

from ..errors import SetupError
from .changes import Changes
from .demo import demo
from .doctor import doctor
from .installation import install, paths, uninstall
from .ownership import refuse_folders_of_others
from .report import in_words

DESCRIPTION = """Install, remove, examine, demonstrate or test dlwhy, straight from its checkout.

``install`` adds one marked block to gdb's init file, one to LLDB's, writes the shell's command dlwhy, and puts the
pure-Python packages that dlwhy uses into a private folder for each of their Pythons, by the hashes in requirements/.
On Windows it writes a script that WinDbg runs at its start.  No system Python and nothing else of the user's is
touched.  Nothing of the current folder is run: programs come from absolute folders of PATH and start in the checkout,
Pythons start isolated.  As root it works only where no other user can change what it reads, writes and runs.
"""


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="install.py", description=DESCRIPTION)
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


def main(arguments: list[str], run_tests: Callable[[Changes, list[str], bool], int]) -> int:
    """Run one sub-command and return the exit status; ``run_tests`` is the sub-command test."""
    options = parse_arguments(arguments)
    changes = Changes(options.dry_run)
    try:
        refuse_folders_of_others(paths())
        if options.command == "test":
            return run_tests(changes, options.pytest_arguments, not options.unlocked)
        if options.command == "doctor":
            return doctor()
        return {"install": install, "uninstall": uninstall, "demo": demo}[options.command](changes)
    except (SetupError, OSError) as error:
        text = in_words(error) if isinstance(error, OSError) else str(error)
        print(f"install.py: {text}", file=sys.stderr)  # noqa: T201 - to the user
        return 1
