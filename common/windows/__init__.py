"""What Windows does: its loader and its kernel."""
