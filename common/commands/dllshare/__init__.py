"""``dllshare``: can this mapped file be renamed, deleted, overwritten, and who maps it?"""

from __future__ import annotations

from ..arguments import argument
from ..registry import Command, Example

COMMAND = Command(
    name="dllshare",
    os="windows",
    summary="tell whether a mapped file can be renamed, deleted or overwritten, and who maps it",
    description="""\
Says for a file that processes of a Windows machine map, as a DLL or as data, or have open, or that
the kernel has loaded (ntoskrnl.exe, a driver), whether it can be renamed, deleted or overwritten
while it is mapped, how Windows refuses what it refuses, and which processes map it or have it
open. Needs the kernel: a kernel debug session, or a kernel or complete memory dump.
Permissions and the read-only attribute are not looked at.

FILE is a name (python35.dll), the end of a path, a pattern (python*.dll), or an expression for an
address inside the mapped file in the current process, or in the one given by -p.
With --all, lists every file that is mapped as an image.""",
    arguments=(
        argument("file", metavar="FILE", nargs="*", completes_libraries=True, help="the mapped file"),
        argument("-p", "--process", metavar="PID", help="only what this process maps; 0n for decimal, 0x for hex"),
        argument("--all", action="store_true", help="list all mapped images"),
    ),
    answer="command:answer",
    method="shares",
    examples=(
        Example("dllshare python35.dll", "can it be renamed, deleted, overwritten, and who maps it?"),
        Example("dllshare --all", "list all mapped images"),
    ),
    links_to="dllshare",
)
