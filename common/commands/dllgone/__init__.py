"""The command dllgone: its definition, its text, its JSON document."""
