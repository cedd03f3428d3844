"""Which reader opens this core or dump: plain, compressed, or kept by systemd-coredump?"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Optional, Union

from .errors import DumpFormatError, NotFoundError, UnsupportedError, UsageError
from .files import open_regular, read_at
from .linux.dumps.coretarget import CoreTarget
from .linux.dumps.elfcore import require_core
from .model import Problem

if TYPE_CHECKING:
    from .linux.dumps.minidump import LinuxMinidump
    from .unpack import Unpacked
    from .windows.dumps.kdump import KernelDump
    from .windows.dumps.minidump import MinidumpTarget


# By the first bytes of a compressed file: the command that decompresses standard input to standard output.
_COMPRESSIONS = {
    b"\x28\xb5\x2f\xfd": ("zstd", "-dcq"),
    b"\x04\x22\x4d\x18": ("lz4", "-dcq"),
    b"\xfd7zXZ\x00": ("xz", "-dc"),
    b"\x1f\x8b": ("gzip", "-dc"),
    b"BZh": ("bzip2", "-dc"),
}

# Of an ELF file, the larger of both classes.
_HEADER_SIZE = 64

_ELF = b"\x7fELF"
_MINIDUMP = b"MDMP"
_KERNEL_DUMPS = (b"PAGEDU64", b"PAGEDUMP")
_USER_DUMPS = (b"USERDU64", b"USERDUMP")


def open_file(
    path: str, sysroot: str = "", executable: str = "", max_size: Optional[int] = None
) -> Union[CoreTarget, MinidumpTarget, LinuxMinidump, KernelDump]:
    """Open a core or a Windows dump, recognised by its content; a compressed one is decompressed first.

    ``sysroot`` and ``executable`` are for a core; ``max_size`` is the disk space that the temporary file may take, in
    bytes (None: 4 GiB).

    :raises DumpFormatError: if it cannot be opened, is neither, damaged, or too large.
    :raises UnsupportedError: if its kind or processor is unknown, the program that decompresses it is not installed, or
        a file that it needs is missing.
    :raises NotFoundError: if there is no such ``sysroot`` or ``executable``.
    :raises UsageError: if one of these is given for a dump of Windows.
    """
    _require_given(sysroot, executable)
    content = _decompress(path, lambda start: _require_known(path, start), max_size)
    start = _first_bytes(path, content)
    _require_known(path, start)
    if start.startswith(_ELF):
        return _core_of(path, content, sysroot, executable)
    if sysroot or executable:
        raise UsageError(f"{path} is a dump of Windows: sysroot and executable are for cores")
    return _dump_of(path, content, start)


def _require_known(path: str, start: bytes) -> None:
    """Require that a file begins like a core or a Windows dump.

    :raises DumpFormatError: if it begins as neither.
    :raises UnsupportedError: if it is a dump of a kind that cannot be read.
    """
    if start.startswith(_ELF):
        require_core(path, start)
    elif start.startswith((_MINIDUMP, *_KERNEL_DUMPS, *_USER_DUMPS)):
        _require_dump(path, start)
    else:
        raise DumpFormatError(path, "neither a core (an ELF file) nor a minidump nor a kernel dump of Windows", 0)


def open_core(path: str, sysroot: str = "", executable: str = "", max_size: Optional[int] = None) -> CoreTarget:
    """Open a core file; a compressed one is first decompressed into a temporary file.

    ``max_size`` is the disk space that the temporary file may take, in bytes (None: 4 GiB).

    :raises DumpFormatError: if it is not an ELF core, damaged, or too large.
    :raises UnsupportedError: if the program that decompresses it is not installed, the architecture is unknown, or a
        file that it needs is missing.
    :raises NotFoundError: if there is no such ``sysroot`` or ``executable``.
    """
    _require_given(sysroot, executable)
    content = _decompress(path, lambda start: _require_no_dump(path, start), max_size)
    _require_no_dump(path, _first_bytes(path, content))
    return _core_of(path, content, sysroot, executable)


def _require_no_dump(path: str, start: bytes) -> None:
    """Require that a file begins like an ELF core.

    :raises DumpFormatError: if it does not.
    """
    if start.startswith((_MINIDUMP, *_KERNEL_DUMPS, *_USER_DUMPS)):
        raise DumpFormatError(path, "no ELF file, but a minidump or a dump of Windows: give it by --dump", 0)
    require_core(path, start)


def _require_given(sysroot: str, executable: str) -> None:
    """Require that the paths that the user names exist: otherwise nothing would be found there, silently.

    :raises NotFoundError: if one does not exist.
    """
    if sysroot and not os.path.isdir(sysroot):
        raise NotFoundError(f"there is no folder {sysroot}, which is given as the root of the core's files")
    if executable and not os.path.isfile(executable):
        raise NotFoundError(f"{executable}, which is given as the core's program, is no file, or not there")


def _core_of(path: str, content: Optional[Unpacked], sysroot: str, executable: str) -> CoreTarget:
    try:
        target = CoreTarget(path, sysroot, content.stream if content else None, executable)
    except DumpFormatError as error:
        if content and content.flaw:
            error.add([("decompression", content.flaw)])
        raise
    _note(target, content)
    return target


def open_dump(path: str, max_size: Optional[int] = None) -> Union[MinidumpTarget, LinuxMinidump, KernelDump]:
    """Open a Windows dump by its signature; a compressed one is first decompressed into a temporary file.

    ``max_size`` is the disk space that the temporary file may take, in bytes (None: 4 GiB).

    :raises DumpFormatError: if it is not a dump, damaged, or too large.
    :raises UnsupportedError: if its kind or processor is unknown, or the program that decompresses it is not installed.
    """
    content = _decompress(path, lambda start: _require_dump(path, start), max_size)
    start = _first_bytes(path, content)
    _require_dump(path, start)
    return _dump_of(path, content, start)


def _dump_of(path: str, content: Optional[Unpacked], start: bytes) -> Union[MinidumpTarget, LinuxMinidump, KernelDump]:
    stream = content.stream if content else None
    target: Union[MinidumpTarget, LinuxMinidump, KernelDump]
    if start.startswith(_MINIDUMP):
        target = _minidump_of(path, stream)
    else:
        from .windows.dumps.kdump import KernelDump

        target = KernelDump(path, stream)
    _note(target, content)
    return target


def _minidump_of(path: str, stream: Optional[BinaryIO]) -> Union[MinidumpTarget, LinuxMinidump]:
    from .minidumps import is_of_linux

    if is_of_linux(path, stream):
        from .linux.dumps.minidump import LinuxMinidump

        return LinuxMinidump(path, stream)
    from .windows.dumps.minidump import MinidumpTarget

    return MinidumpTarget(path, stream)


def open_coredump(match: str, sysroot: str = "", executable: str = "", max_size: Optional[int] = None) -> CoreTarget:
    """Open the newest core that systemd-coredump keeps for a process id or executable.

    ``max_size`` is the disk space that its temporary copy may take, in bytes (None: 4 GiB).

    :raises UnsupportedError: if coredumpctl is not installed.
    :raises NotFoundError: if it has no such core, or there is no such ``sysroot`` or ``executable``.
    :raises DumpFormatError: if the core is damaged or too large.
    """
    from .unpack import find_program, unpack

    _require_given(sysroot, executable)
    program = find_program("coredumpctl")
    if program is None:
        raise UnsupportedError("coredumpctl is not installed: give the core's file by --core")
    name = f"coredumpctl {match}"
    command: list[Union[str, bytes]] = [program, "dump", "--", match.encode("utf-8", "surrogateescape")]
    content = unpack(command, None, name, lambda start: require_core(name, start), max_size)
    if not content.size:
        raise NotFoundError(f"coredumpctl has no core of {match}: {content.flaw or 'it wrote nothing'}")
    return _core_of(name, content, sysroot, executable)


def _require_dump(path: str, start: bytes) -> None:
    """Require that a file begins like a dump that can be read.

    :raises DumpFormatError: if it is not a dump.
    :raises UnsupportedError: if it is a dump of another kind.
    """
    if start.startswith((_MINIDUMP, *_KERNEL_DUMPS)):
        return
    if start.startswith(_USER_DUMPS):
        raise UnsupportedError(
            f"{path} is a full user dump of the old format: only WinDbg reads it; .dump /ma rewrites it"
        )
    if start.startswith(_ELF):
        raise DumpFormatError(path, "it is an ELF file: give a core of Linux by --core", 0)
    raise DumpFormatError(path, "no dump of Windows: it begins neither with MDMP nor with PAGEDU64", 0)


def _decompress(path: str, check: Callable[[bytes], object], max_size: Optional[int]) -> Optional[Unpacked]:
    """Decompress a file; None if it is not compressed."""
    start = _first_bytes(path, None)
    command = next((command for magic, command in _COMPRESSIONS.items() if start.startswith(magic)), None)
    if command is None:
        return None
    from .unpack import find_program, unpack  # the modules behind it take 10 ms, which a plain core does not need

    program = find_program(command[0])
    if program is None:
        raise UnsupportedError(f"{path} is compressed: install {command[0]}, which decompresses it")
    with _open(path) as source:
        content = unpack([program, *command[1:]], source, path, check, max_size)
    if not content.size:
        raise DumpFormatError(path, content.flaw or "nothing is in it")
    return content


def _open(path: str) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise DumpFormatError(path, error.strerror or str(error)) from error


def _first_bytes(path: str, content: Optional[Unpacked]) -> bytes:
    if content:
        return read_at(content.stream, 0, _HEADER_SIZE)
    with _open(path) as stream:
        return read_at(stream, 0, _HEADER_SIZE)


def _note(target: Union[CoreTarget, MinidumpTarget, LinuxMinidump, KernelDump], content: Optional[Unpacked]) -> None:
    if content and content.flaw:
        message = f"not all of it could be decompressed: {content.flaw}"
        target.add_problems([Problem(target.description, message)])
