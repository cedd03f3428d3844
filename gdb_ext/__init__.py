"""The gdb adapter: bytes, names and offsets from gdb, commands into gdb."""
