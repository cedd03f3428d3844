"""Which structure layouts of glibc and musl are known, and which fits."""
