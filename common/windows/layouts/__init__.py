"""Which structure layouts of Windows are known, and which fits."""
