"""``dllshare``: can this mapped file be renamed, deleted, overwritten, and who maps it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import UsageError
from ..arguments import argument
from ..registry import Result, Session, command, process_id

if TYPE_CHECKING:
    from argparse import Namespace

    from ...windows.model import Share


_DESCRIPTION = """\
Says for a file that processes of a Windows machine map, as a DLL or as data, whether it can be
renamed, deleted or overwritten meanwhile, how Windows refuses what it refuses, and which processes
map it or have it open. Needs the kernel: a kernel debug session, or a kernel or complete memory dump.
Permissions and the read-only attribute are not looked at.

FILE is a name (python35.dll), the end of a path, a pattern (python*.dll), or an expression for an
address inside the mapped file in the current process, or in the one given by -p.
With --all, lists every file that is mapped as an image."""


@command(
    "dllshare",
    "tell whether a mapped file can be renamed, deleted or overwritten, and who maps it",
    _DESCRIPTION,
    (
        argument("file", metavar="FILE", nargs="*", completes_libraries=True, help="the mapped file"),
        argument("-p", "--process", metavar="PID", help="only what this process maps; 0n for decimal, 0x for hex"),
        argument("--all", action="store_true", help="list all mapped images"),
    ),
)
def dllshare(session: Session, arguments: Namespace) -> Result:
    """Answer ``dllshare FILE`` and ``dllshare --all``."""
    from ...windows.share import share_all, share_file
    from .text import share_view

    wanted = " ".join(arguments.file)
    if bool(wanted) == arguments.all:
        raise UsageError("name one file, or give --all; see help dllshare")
    pid = process_id(arguments.process)
    if arguments.all:
        share = share_all(session.target, pid)
    else:
        share = share_file(session.target, wanted, session.host.evaluate, pid)
    return Result(
        document=lambda: _document(share),
        view=lambda verbose: share_view(share, verbose),
        has_problems=bool(share.problems),
        has_findings=share.asked is not None and _cannot_go(share),
    )


def _cannot_go(share: Share) -> bool:
    from ...windows.model import Possible

    return any(
        operation.name == "delete" and operation.possible is Possible.NO
        for file in share.files
        for operation in file.operations
    )


def _document(share: Share) -> dict[str, object]:
    from .document import share_document

    return share_document("dllshare", share)
