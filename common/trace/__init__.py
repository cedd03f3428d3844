"""What traces of all systems share: events and their sums."""
