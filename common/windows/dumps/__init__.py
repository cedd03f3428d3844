"""Minidumps and kernel dumps."""
