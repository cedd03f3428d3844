"""The WinDbg adapter: bytes, names and offsets from the debugger engine through pykd, commands into it."""
