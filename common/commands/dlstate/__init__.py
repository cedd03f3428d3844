"""The command dlstate: its definition, its text, its JSON document."""
