"""The command dltrace: its definition, its text, its JSON document."""
