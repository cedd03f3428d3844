"""PE images in memory: what the debugger does not give."""
