"""What Windows' loader knows and does."""
