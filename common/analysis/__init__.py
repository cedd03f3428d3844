"""Questions answered as frozen values, from what the loaders know."""
