"""Commands, each defined once for every host."""
