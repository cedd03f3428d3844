"""ELF images: in memory, and the files they came from."""
