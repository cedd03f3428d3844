"""Opens and closes, watched as they happen."""
