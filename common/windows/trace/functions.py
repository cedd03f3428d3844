"""Through which exports of ntdll do all loads and frees pass, and what are their arguments?

Sources: phnt of System Informer (ntldr.h), for the flags; the calling convention of x64.
"""

from __future__ import annotations

from typing import Optional

from ...errors import FaultError
from ...memory import Memory
from ..strings import read_unicode_string

LOAD, UNLOAD, ADD_REF, GET_HANDLE = "LdrLoadDll", "LdrUnloadDll", "LdrAddRefDll", "LdrGetDllHandleEx"
SHUTDOWN, TERMINATE = "LdrShutdownProcess", "NtTerminateProcess"

#: LDR_ADDREF_DLL_PIN, and LDR_GET_DLL_HANDLE_EX_UNCHANGED_REFCOUNT and _PIN.
ADD_REF_PIN, HANDLE_UNCHANGED, HANDLE_PIN = 1, 1, 2
#: The handle of a DLL that is mapped as data has one of these bits set; the loader does not list the DLL.
DATA_FILE_BITS = 3
DLL_PROCESS_DETACH = 0
#: The pseudo-handle of the current process.
CURRENT_PROCESS = (1 << 64) - 1
MASK_32 = (1 << 32) - 1
#: A pointer, not a value: nothing is mapped at lower addresses.
FIRST_ADDRESS = 0x10000
#: The fifth argument is after the return address and the home space of the first four.
FIFTH_ARGUMENT = 0x28


def find_name(memory: Memory, address: int) -> Optional[str]:
    """Read the name that an argument points at; None if it is not in memory."""
    try:
        return read_unicode_string(memory, address, memory.pointer_size).text
    except FaultError:
        return None  # the event then has no name, which is: not known
