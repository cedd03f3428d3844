"""Dynamic loaders: their rules, with offsets taken from the layouts."""
