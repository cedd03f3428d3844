"""ELF cores, and running processes read through /proc."""
