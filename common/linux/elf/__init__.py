"""ELF images in memory and on disk."""
