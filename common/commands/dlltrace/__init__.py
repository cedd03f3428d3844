"""The command dlltrace: its definition, its text, its JSON document."""
