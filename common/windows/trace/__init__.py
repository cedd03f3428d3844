"""Loads and frees of DLLs, watched as they happen."""
