"""Documents as text, in colour, and results as JSON."""
