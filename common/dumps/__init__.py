"""Dump files as memory."""
