"""How is ``dllshare`` run?"""

from __future__ import annotations

from argparse import Namespace

from ...errors import UsageError
from ...windows.model import Allowed, Share
from ...windows.share import share_all, share_file
from ..arguments import process_id
from ..session import Result, Session, document_by
from .text import share_view


def answer(session: Session, arguments: Namespace) -> Result:
    """Answer ``dllshare FILE`` and ``dllshare --all``."""
    wanted = " ".join(arguments.file)
    if bool(wanted) == arguments.all:
        raise UsageError("name one file, or give --all; see help dllshare")
    pid = process_id(arguments.process)
    if arguments.all:
        share = share_all(session.target, pid)
    else:
        share = share_file(session.target, wanted, session.host.evaluate, pid)

    return Result(
        document=document_by("dllshare", "share_document", share),
        view=lambda verbose: share_view(share, verbose),
        has_problems=bool(share.problems),
        has_findings=share.asked is not None and _cannot_go(share),
    )


def _cannot_go(share: Share) -> bool:

    return any(
        operation.name == "delete" and operation.allowed is Allowed.NO
        for file in share.files
        for operation in file.operations
    )
