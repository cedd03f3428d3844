"""What the dynamic loader of an ELF system knows and does."""
