"""Which reader opens this core or dump: plain, compressed, or kept by systemd-coredump?"""

from __future__ import annotations

from ..charset import file_name
from ..errors import DumpFormatError, NotFoundError, UnsupportedError
from .elfcore import CoreTarget

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO, Optional, Union

    from ..target import Target


# First bytes of a compressed file: the command that writes its content to standard output.
_COMPRESSIONS = {
    b"\x28\xb5\x2f\xfd": ("zstd", "-dcq"),
    b"\x04\x22\x4d\x18": ("lz4", "-dcq"),
    b"\xfd7zXZ\x00": ("xz", "-dc"),
    b"\x1f\x8b": ("gzip", "-dc"),
    b"BZh": ("bzip2", "-dc"),
}


def open_core(path: str, sysroot: str = "", executable: str = "") -> CoreTarget:
    """Open a core file, decompressed into a temporary file first where it is compressed.

    :raises DumpFormatError: if it is no ELF core, or damaged.
    :raises UnsupportedError: if the program that decompresses it is not installed, the architecture is not known, or a
        file is needed that is not here.
    """
    try:
        with open(file_name(path), "rb") as stream:
            start = stream.read(8)
    except OSError as error:
        raise DumpFormatError(path, error.strerror or str(error)) from error
    for magic, command in _COMPRESSIONS.items():
        if start.startswith(magic):
            return CoreTarget(path, sysroot, _decompress(path, command), executable)
    return CoreTarget(path, sysroot, executable=executable)


def open_dump(path: str) -> Target:
    """Open a dump of Windows by its signature, decompressed into a temporary file first where it is compressed.

    :raises DumpFormatError: if it is none, or damaged.
    :raises UnsupportedError: if its kind or processor is not known, or the program that decompresses it is not here.
    """
    try:
        with open(file_name(path), "rb") as stream:
            start = stream.read(8)
            content: Optional[BinaryIO] = None
            for magic, command in _COMPRESSIONS.items():
                if start.startswith(magic):
                    content = _decompress(path, command)
                    content.seek(0)
                    start = content.read(8)
    except OSError as error:
        raise DumpFormatError(path, error.strerror or str(error)) from error
    if start.startswith(b"MDMP"):
        from .minidump import MinidumpTarget

        return MinidumpTarget(path, content)
    if start in (b"PAGEDU64", b"PAGEDUMP"):
        from .kdump import KernelDump

        return KernelDump(path, content)
    if start in (b"USERDU64", b"USERDUMP"):
        raise UnsupportedError(
            f"{path} is a full user dump of the old format: only WinDbg reads it; .dump /ma rewrites it"
        )
    if start.startswith(b"\x7fELF"):
        raise DumpFormatError(path, "it is an ELF file: give a core of Linux by --core", 0)
    raise DumpFormatError(path, "no dump of Windows: it begins neither with MDMP nor with PAGEDU64", 0)


def _decompress(path: str, command: tuple[str, ...]) -> BinaryIO:
    program = _find_program(command[0])
    if program is None:
        raise UnsupportedError(f"{path} is compressed: install {command[0]}, which decompresses it")
    content, failure = _capture([program, *command[1:], "--", file_name(path)])
    if content is None:
        raise DumpFormatError(path, failure)
    return content


def open_coredump(match: str, sysroot: str = "", executable: str = "") -> CoreTarget:
    """Open the newest core that systemd-coredump keeps for a process id or executable.

    :raises UnsupportedError: if coredumpctl is not installed.
    :raises NotFoundError: if it has no such core.
    """
    program = _find_program("coredumpctl")
    if program is None:
        raise UnsupportedError("coredumpctl is not installed: give the core's file by --core")
    content, failure = _capture([program, "dump", "--", file_name(match)])
    if content is None:
        raise NotFoundError(f"coredumpctl has no core of {match}: {failure}")
    return CoreTarget(f"coredumpctl {match}", sysroot, content, executable)


def _find_program(name: str) -> Optional[str]:
    import shutil  # as subprocess and tempfile, 10 ms that a plain core does not need

    return shutil.which(name)


def _capture(command: Sequence[Union[str, bytes]]) -> tuple[Optional[BinaryIO], str]:
    """Run a command with its output in a temporary file; gives the file, or None and the reason."""
    import subprocess
    import tempfile

    content: BinaryIO = tempfile.TemporaryFile(prefix="dlwhy-core-")  # noqa: SIM115 - returned
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=content, stderr=subprocess.PIPE, check=False)
    if done.returncode == 0:
        return content, ""
    content.close()
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return None, lines[-1] if lines else f"exit status {done.returncode}"
