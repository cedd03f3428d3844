"""The LLDB adapter: bytes, names and offsets from LLDB, commands into LLDB."""
